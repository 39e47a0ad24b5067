"""Every command of `penstock`, as a test's parameters."""

from __future__ import annotations

from collections.abc import Iterator

import click

from pipeline.cli.main import cli


def walk(command: click.Command, context: click.Context) -> Iterator[tuple[str, click.Command, click.Context]]:
    """This command and all below it: the words that lead there, the command, its context."""
    yield context.command_path, command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from walk(below, click.Context(below, info_name=name, parent=context))


def commands() -> dict[str, tuple[click.Command, click.Context]]:
    """Every command but `penstock` itself, by the words that lead to it."""
    found = walk(cli, click.Context(cli, info_name="penstock"))
    return {path: (command, context) for path, command, context in found if command is not cli}
