"""What applying a file changes, a line for each thing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import click

from pipeline.cli.output import warn
from pipeline.cli.words import printable


class Difference(Protocol):
    """What an API answers to a file that was applied."""

    @property
    def added(self) -> Sequence[str]: ...

    @property
    def changed(self) -> Sequence[str]: ...

    @property
    def removed(self) -> Sequence[str]: ...

    @property
    def warnings(self) -> Sequence[str]: ...


def show_difference(diff: Difference) -> None:
    """Print it: `+` added, `~` changed, `-` removed; warnings go to stderr."""
    for sign, labels in (("+", diff.added), ("~", diff.changed), ("-", diff.removed)):
        for label in labels:
            click.echo(printable(f"{sign} {label}"))
    if not (diff.added or diff.changed or diff.removed):
        click.echo("nothing changes")
    for warning in diff.warnings:
        warn(warning)
