"""`penstock pilots log`: what a pilot wrote."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console

from pipeline.cli import offered
from pipeline.cli.options import Duration, RowId, example, json_option, pass_settings
from pipeline.cli.output import cells, moment, print_json, warn
from pipeline.client import Client, open_client
from pipeline.errors import ApiUnavailable, NotFound
from pipeline.settings import Settings
from schemas.pilot_views import LogWanted, PilotDetail, PilotLog

LOOK = 0.5
"""Seconds between two looks whether the output has come."""
PATIENCE = 120.0
"""Seconds until it should have: a round that was under way when it was asked for had not seen it."""


@click.command(
    epilog=example("penstock pilots log 7", "penstock pilots log 7 --stderr | tail", "penstock pilots log 7 --fresh")
)
@click.argument("pilot_id", metavar="ID", type=RowId(), shell_complete=offered.pilots)
@click.option("--stdout", "only", flag_value="stdout", help="Only its standard output.")
@click.option("--stderr", "only", flag_value="stderr", help="Only its standard error, to standard output.")
@click.option("--fresh", is_flag=True, help="Let it be fetched from its batch system now, and wait for it.")
@click.option("--timeout", type=Duration(), default=f"{PATIENCE:g}s", show_default=True, help="Wait so long for it.")
@json_option
@pass_settings
def log(settings: Settings, /, *, pilot_id: int, as_json: bool, **how: Any) -> None:
    """Print the last 64 KiB that a pilot wrote: its output to standard output, its errors to standard error."""
    with open_client(settings) as client:
        if how["fresh"]:
            _wait(client, client.want_pilot_log(pilot_id), how["timeout"])
        found = client.pilot_log(pilot_id)
    if as_json:
        print_json(cells(found))
    else:
        _print(found, how["only"])


def _print(found: PilotLog, only: str | None) -> None:
    if sys.stderr.isatty():
        click.echo(click.style(f"pilot {found.pilot_id}, fetched {moment(found.fetched_at)} UTC", dim=True), err=True)
    if only != "stderr":
        click.echo(found.stdout, nl=False)
    if only != "stdout":
        click.echo(found.stderr, nl=False, err=only is None)


def _wait(client: Client, wanted: LogWanted, timeout: float) -> None:
    """Until what was asked for has come, or nothing does. Raises NotFound where nothing is kept either, ApiUnavailable
    after `timeout` seconds."""
    pilot_id, since = wanted.pilot_id, time.monotonic()
    with _progress(f"waiting for the output of pilot {pilot_id}") as say:
        while (waited := time.monotonic() - since) < timeout:
            view = client.pilot(pilot_id)
            if view.output_at is not None and view.output_at != wanted.output_at:
                return
            if view.output_wanted_at is None:
                _say_nothing_came(view)
                return
            say(f"waiting for the output of pilot {pilot_id} from {view.site}/{view.queue}: {waited:.0f} s")
            time.sleep(LOOK)
    raise ApiUnavailable(
        f"the output of pilot {pilot_id} did not come within {timeout:g} s; it is still wanted: try "
        f"`penstock pilots log {pilot_id}` later, `penstock pilots show {pilot_id}` says how its queue does"
    )


def _say_nothing_came(view: PilotDetail) -> None:
    """A batch system forgets pilots that have ended, once their output is kept. Raises NotFound where none is kept."""
    whose = f"the batch system {view.batch_system} of {view.site}/{view.queue} has no output of pilot {view.id}"
    if view.output_at is None:
        raise NotFound(f"{whose}: it has not run yet, or was cleaned up there")
    warn(f"{whose} any more; this was fetched {moment(view.output_at)} UTC")


@contextmanager
def _progress(begin: str) -> Iterator[Callable[[str], None]]:
    """A line on stderr that changes on a terminal, and is said once elsewhere."""
    if not sys.stderr.isatty():
        click.echo(begin, err=True)
        yield lambda _line: None
        return
    with Console(stderr=True).status(begin) as status:
        yield status.update
