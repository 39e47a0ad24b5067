"""A click group that imports a command's module when the command is used.

This is for start-up time, not to dodge a cycle: the drivers of databases and brokers take longer to
import than most commands take to run, and completion runs `penstock` at every press of TAB.
"""

from __future__ import annotations

import gc
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import click
from click.shell_completion import CompletionItem


@dataclass(frozen=True, slots=True)
class Lazy:
    """A command that is not imported yet: `module:attribute`, and the line that lists show."""

    target: str
    help: str
    reloads: bool = False
    """Whether it minds SIGHUP once it runs. One that comes while it is being imported must not end it."""

    def load(self) -> click.Command:
        """Import it."""
        if self.reloads:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        module, _colon, attribute = self.target.partition(":")
        # modules live for ever: looking through them for garbage takes a third of their import, and more later on
        gc.disable()
        command = getattr(import_module(module), attribute)
        gc.freeze()
        gc.enable()
        assert isinstance(command, click.Command)
        return command


class LazyGroup(click.Group):
    """A group whose commands are declared in sections, by audience."""

    def __init__(self, *, sections: Mapping[str, Mapping[str, Lazy]], **attributes: Any) -> None:
        super().__init__(**attributes)
        self.sections = sections
        self._lazy = {name: lazy for commands in sections.values() for name, lazy in commands.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        lazy = self._lazy.get(cmd_name)
        return None if lazy is None else lazy.load()

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        for title, commands in self.sections.items():
            with formatter.section(title):
                formatter.write_dl([(name, lazy.help) for name, lazy in commands.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        names = [
            CompletionItem(name, help=lazy.help) for name, lazy in self._lazy.items() if name.startswith(incomplete)
        ]
        # the group's own would import every command for its help
        return names + click.Command.shell_complete(self, ctx, incomplete)
