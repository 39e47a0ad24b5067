"""What commands print: JSON on demand, a coloured table on a terminal, a plain one into a pipe."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import datetime
from typing import Any

import click
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table
from rich.text import Text

Cells = Mapping[str, Any]

_COLOURS = {
    "done": "green", "closed": "green", "ok": "green", "usable": "green",
    "running": "cyan", "matched": "cyan", "completing": "cyan",
    "failed": "red", "blocked": "red", "lost": "red", "killed": "red", "cancelled": "red", "fail": "red",
    "stalled": "yellow", "held": "yellow", "paused": "yellow", "pause": "yellow", "drain": "yellow", "silent": "yellow",
}  # fmt: skip


def show_list(items: Iterable[Any], columns: Sequence[str], *, as_json: bool) -> None:
    """A listing of models, dataclasses or mappings: the columns named, or everything as one JSON array."""
    rows = [cells(item) for item in items]
    if as_json:
        print_json(rows)
        return
    shown = [[_text(row.get(column)) for column in columns] for row in rows]
    titles = [column.replace("_", " ").upper() for column in columns]
    if sys.stdout.isatty():
        _rich_table(titles, shown)
    else:
        _plain_table(titles, shown)


def show_one(item: Any, *, as_json: bool) -> None:
    """One thing, a line per field; nested lists are tables of their own."""
    fields = cells(item)
    if as_json:
        print_json(fields)
        return
    nested = {name: value for name, value in fields.items() if _is_table(value)}
    plain = {name: value for name, value in fields.items() if name not in nested and value not in (None, [], {}, "")}
    width = max(map(len, plain), default=0)
    for name, value in plain.items():
        click.echo(f"{name.replace('_', ' '):<{width}}  {_text(value)}")
    for name, value in nested.items():
        click.echo(f"\n{name.replace('_', ' ')}:")
        show_list(value, list(value[0]), as_json=False)


def print_json(value: Any) -> None:
    """`value` as JSON; times in ISO 8601."""
    click.echo(json.dumps(value, indent=2, default=_plain))


def warn(message: str) -> None:
    """A line on stderr that is no error."""
    click.echo(f"penstock: warning: {message}", err=True)


def cells(item: Any) -> dict[str, Any]:
    """A model, dataclass or mapping as plain values by name."""
    if isinstance(item, BaseModel):
        return item.model_dump(mode="json")
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
        case datetime():
            text = f"{value:%Y-%m-%d %H:%M:%S}"
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
    return text


def _rich_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=_COLOURS.get(cell, "")) for cell in row))
    Console().print(table)


def _plain_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    flat = [[" ".join(cell.split()) for cell in row] for row in rows]
    widths = [max(len(line[at]) for line in [titles, *flat]) for at in range(len(titles))]
    for line in [titles, *flat]:
        click.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())
