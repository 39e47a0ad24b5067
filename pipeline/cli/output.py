"""What commands print: JSON on demand, a coloured table on a terminal, a plain one into a pipe. Times are UTC."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from datetime import UTC, datetime
from typing import Any

import click
from pydantic import BaseModel
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.cli.words import folded, one_line, printable

Cells = Mapping[str, Any]

_COLOURS = {
    "done": "green", "closed": "green", "usable": "green", "succeeded": "green", "drained": "green", "open": "",
    "running": "cyan", "matched": "cyan", "completing": "cyan",
    "failed": "red", "blocked": "red", "lost": "red", "killed": "red", "cancelled": "red", "banned": "red",
    "overdue": "red", "draining": "yellow",
    "stalled": "yellow", "held": "yellow", "paused": "yellow", "pause": "yellow", "drain": "yellow", "silent": "yellow",
}  # fmt: skip
_COLOURED = frozenset({"state", "wish", "outcome"})
_TITLES = {"campaign_id": "campaign", "job_id": "job", "pilot_id": "pilot", "exit_code": "exit"}
_FOLDED = {
    "reason": 24, "why": 24, "what": 22, "lfn": 24, "url": 24,
    "queues": 14, "name": 14, "jobs": 14, "batch_id": 14, "where": 12,
}  # fmt: skip
"""Columns whose cells may take several lines where the terminal is narrow, and the width that they keep."""
_LESSER = ("changed_at", "ended_at", "adler32", "batch_id", "created_at", "attempt", "group", "version")
"""Columns that a narrow terminal goes without, in this order."""
_GAP = 2


def show_list(items: Iterable[Any], columns: Sequence[str], *, as_json: bool, of: str) -> None:
    """A listing of models, dataclasses or mappings: the columns named, or everything as one JSON array.

    `of` is what is listed, such as "jobs": an empty list says that there are none, on stderr.
    """
    things = list(items)
    if as_json:
        print_json([cells(item) for item in things])
        return
    show_table([_shown(item) for item in things], columns)
    if not things:
        click.echo(f"no {of}", err=True)


def show_table(rows: Sequence[Cells], columns: Sequence[str]) -> None:
    """Rows of plain values. On a terminal an empty table is nothing at all, in a pipe it has its head."""
    table = [_Column(name, [" ".join(_text(row.get(name)).split()) for row in rows]) for name in columns]
    if not sys.stdout.isatty():
        _plain_table(table)
    elif rows:
        _rich_table(table)


def show_one(item: Any, *, as_json: bool) -> None:
    """One thing, a line per field; nested lists are tables of their own."""
    if as_json:
        print_json(cells(item))
        return
    fields = _shown(item)
    nested = {name: value for name, value in fields.items() if _is_table(value)}
    show_fields({name: value for name, value in fields.items() if name not in nested})
    for name, value in nested.items():
        show_title(name.replace("_", " "))
        show_table(value, list(value[0]))


def show_fields(fields: Cells) -> None:
    """A line per field that has a value; on a terminal a long one takes several."""
    plain = {name.replace("_", " "): value for name, value in fields.items() if value not in (None, [], (), {}, "")}
    width = max(map(len, plain), default=0)
    room = Console().width if sys.stdout.isatty() else None
    for name, value in plain.items():
        text = _text(value) if room is None else folded(_text(value), room, width + _GAP)
        colour = _COLOURS.get(text) if name in _COLOURED else None
        click.echo(f"{name:<{width}}  {click.style(text, fg=colour) if colour else text}")


def show_title(title: str) -> None:
    """What stands above a table, after an empty line."""
    click.echo("\n" + click.style(f"{title}:", bold=True))


def print_json(value: Any) -> None:
    """`value` as JSON; times in ISO 8601."""
    click.echo(json.dumps(value, indent=2, default=_plain))


def warn(message: str) -> None:
    """A line on stderr that is no error."""
    click.echo(f"penstock: {click.style('warning:', fg='yellow')} {one_line(message)}", err=True)


def cells(item: Any) -> dict[str, Any]:
    """A model, dataclass or mapping as plain values by name, ready for JSON."""
    return item.model_dump(mode="json") if isinstance(item, BaseModel) else _shown(item)


def moment(value: datetime | None) -> str:
    """A time as tables show it."""
    return _text(value)


def _shown(item: Any) -> dict[str, Any]:
    """The same, with times that are still times."""
    if isinstance(item, BaseModel):
        return item.model_dump()
    if is_dataclass(item) and not isinstance(item, type):
        return asdict(item)
    return dict(item)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return str(value)


def _is_table(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(entry, dict) for entry in value)


def _text(value: Any) -> str:
    """A cell. Nothing is a dash, so that columns stay columns for awk."""
    if value is None or value in ("", [], (), {}):
        return "-"
    match value:
        case bool():
            text = "yes" if value else "no"
        case datetime():
            text = f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
        case float():
            text = f"{value:.1f}"
        case bytes():
            text = value.decode(errors="replace")
        case dict():
            text = " ".join(f"{name}={entry}" for name, entry in value.items())
        case list() | tuple():
            text = " ".join(str(entry) for entry in value)
        case _:
            text = str(value)
    return printable(text)


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    cells: Sequence[str]

    @property
    def title(self) -> str:
        return _TITLES.get(self.name, self.name).replace("_", " ").upper()

    @property
    def width(self) -> int:
        return max(map(cell_len, [self.title, *self.cells]))

    @property
    def least(self) -> int:
        """Characters that it can't do without."""
        return min(self.width, _FOLDED.get(self.name, self.width))

    @property
    def is_empty(self) -> bool:
        return all(cell == "-" for cell in self.cells)


def _least(table: Sequence[_Column]) -> int:
    return sum(column.least for column in table) + _GAP * (len(table) - 1)


def _narrowed(table: Sequence[_Column], width: int) -> tuple[list[_Column], list[str]]:
    """The columns that fit into `width`, and those with something in them that had to go."""
    kept, gone = list(table), []
    if sum(column.width + _GAP for column in kept) - _GAP > width:
        kept = [column for column in kept if not column.is_empty]
    for name in _LESSER:
        if _least(kept) <= width:
            break
        gone += [column.title for column in kept if column.name == name]
        kept = [column for column in kept if column.name != name]
    return kept, gone


def _rich_table(columns: Sequence[_Column]) -> None:
    console = Console()
    kept, gone = _narrowed(columns, console.width)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, _GAP, 0, 0))
    for column in kept:
        table.add_column(column.title, overflow="fold", no_wrap=column.name not in _FOLDED)
    for at in range(len(columns[0].cells)):
        table.add_row(*(Text(column.cells[at], style=_style(column, at)) for column in kept))
    # what does not fit even so is wrapped by the terminal; rich would cut it off
    Console(width=max(console.width, _least(kept))).print(table)
    if gone:
        click.echo(click.style(f"{', '.join(gone)}: no room; a wider terminal or --json has it", dim=True), err=True)


def _style(column: _Column, at: int) -> str:
    return _COLOURS.get(column.cells[at], "") if column.name in _COLOURED else ""


def _plain_table(columns: Sequence[_Column]) -> None:
    for line in zip(*([column.title, *column.cells] for column in columns), strict=True):
        padded = (set_cell_size(cell, column.width) for cell, column in zip(line, columns, strict=True))
        click.echo((" " * _GAP).join(padded).rstrip())
