"""What commands share: the settings, `--json`, an example at the end of the help."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Concatenate, ParamSpec, TypeVar

import click

from pipeline.cli.session import Session
from pipeline.settings import Settings
from pipeline.settings_file import load_settings

P = ParamSpec("P")
R = TypeVar("R")

LONGEST = 36_500 * 86_400.0
"""Seconds; what is longer was mistyped, and no calendar could hold it."""

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def example(*lines: str) -> str:
    """The end of a command's help; each line is a command that works."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)


def session() -> Session:
    """The session of this run."""
    return click.get_current_context().ensure_object(Session)


def pass_settings(command: Callable[Concatenate[Settings, P], R]) -> Callable[P, R]:
    """Give a command the settings, parsed when the first command asks. Raises BadSettings."""

    @functools.wraps(command)
    def with_settings(*args: P.args, **kwargs: P.kwargs) -> R:
        run = session()
        if run.settings is None:
            run.settings = load_settings()
        return command(run.settings, *args, **kwargs)

    return with_settings


class RowId(click.ParamType[int]):
    """The id of a row: a number from 1 on that the database can hold."""

    name = "id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        if not re.fullmatch(r"[0-9]{1,18}", str(value)) or int(value) == 0:
            self.fail(f"{value!r} is no id; ids are numbers from 1 on, as lists show them.", param, ctx)
        return int(value)


class Ids(click.ParamType[tuple[int, ...]]):
    """Ids separated by commas."""

    name = "ids"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        if not re.fullmatch(r"\s*[1-9][0-9]*(\s*,\s*[1-9][0-9]*)*\s*", str(value)):
            self.fail(f"{value!r} are no ids; write them like 1,2,3.", param, ctx)
        return tuple(int(word) for word in str(value).split(","))


class Duration(click.ParamType[float]):
    """A time span: `90s`, `30m`, `2h`, `7d`; a plain number is seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smhd]?)", str(value).strip())
        if found is None:
            self.fail(f"{value!r} is no duration; write it like 90s, 30m, 2h or 7d.", param, ctx)
        seconds = float(found.group(1)) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}[found.group(2)]
        if seconds > LONGEST:
            self.fail(f"{value!r} is over a hundred years.", param, ctx)
        return seconds


class Moment(click.ParamType[datetime | timedelta]):
    """A time: ISO 8601 (UTC unless it says otherwise), or a duration that reaches back from now."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime | timedelta:
        if isinstance(value, datetime | timedelta):
            return value
        try:
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            if not str(value)[:1].isdigit():
                self.fail(
                    f"{value!r} is no time; write it like 2026-11-21T09:50 (UTC), or like 90s, 2h, 7d.", param, ctx
                )
            return timedelta(seconds=Duration().convert(value, param, ctx))
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
