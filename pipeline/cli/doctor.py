"""`penstock doctor`: what an installation needs, looked at one by one, with what mends what is wrong."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime

import click

from pipeline.cli.direct import opened_database, opened_transport
from pipeline.cli.options import example, json_option
from pipeline.cli.output import print_json
from pipeline.errors import PenstockError
from pipeline.runtime.spec import declared_queues
from pipeline.settings import Settings
from pipeline.settings_check import check_settings
from pipeline.settings_file import load_settings
from pipeline.store import schema
from pipeline.traces.port import open_exporter

SKEW = 5.0
"""Seconds between two clocks that nobody minds: leases and ages go by the database's alone."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    check: str
    ok: bool
    detail: str


class Sick(PenstockError):
    """A check found something; the message says what, and what mends it."""


@click.command(epilog=example("penstock doctor", "penstock doctor --json"))
@json_option
def doctor(*, as_json: bool) -> None:
    """Check settings, database, broker and clocks.

    Where traces go is asked, too, if they go anywhere. A line per check says what was found and what mends it; exit
    code 1 if any fails.
    """
    findings = examine()
    if as_json:
        print_json([{"check": one.check, "ok": one.ok, "detail": one.detail} for one in findings])
    else:
        for one in findings:
            word = click.style("ok  ", fg="green") if one.ok else click.style("fail", fg="red")
            click.echo(f"{word}  {one.check:<9} {one.detail}")
    if not all(one.ok for one in findings):
        raise click.exceptions.Exit(1)


def examine() -> list[Finding]:
    """Every finding; checks that need what failed before are still made, and say so themselves."""
    try:
        settings = load_settings()
    except PenstockError as error:
        return [Finding("settings", ok=False, detail=str(error))]
    checks: Sequence[tuple[str, Callable[[Settings], str]]] = (
        ("settings", _settings),
        ("database", _database),
        ("schema", _schema),
        ("clock", _clock),
        ("broker", _broker),
        *([("traces", _traces)] if settings.traces_url else []),
    )
    return [_finding(name, check, settings) for name, check in checks]


def _finding(name: str, check: Callable[[Settings], str], settings: Settings) -> Finding:
    try:
        return Finding(name, ok=True, detail=check(settings))
    except PenstockError as error:
        return Finding(name, ok=False, detail=" ".join(str(error).split()))


def _settings(settings: Settings) -> str:
    check_settings(settings)
    said = (name for name in settings.model_fields_set if name != "settings_file" or settings.settings_file)
    changed = sorted(f"PENSTOCK_{name.upper()}" for name in said)
    return f"data in {settings.resolved_data_dir()}; set: {', '.join(changed) or 'nothing, all defaults'}"


def _database(settings: Settings) -> str:
    _embedded_file_is_there(settings)
    with opened_database(settings, checked=False) as database:
        started = time.monotonic()
        database.now()
        return f"{database.safe_url()} answered in {(time.monotonic() - started) * 1000:.0f} ms"


def _schema(settings: Settings) -> str:
    _embedded_file_is_there(settings)
    with opened_database(settings) as database:
        return f"at {schema.current(database)}; this release works on {schema.head()}"


def _clock(settings: Settings) -> str:
    _embedded_file_is_there(settings)
    with opened_database(settings, checked=False) as database:
        before = datetime.now(UTC)
        theirs = database.now()
        after = datetime.now(UTC)
    skew = max((before - theirs).total_seconds(), (theirs - after).total_seconds(), 0.0)
    if skew > SKEW:
        raise Sick(
            f"{socket.gethostname()} and the database differ by {skew:.1f} s; run an NTP service on both "
            f"(log times and cron minutes would mislead)"
        )
    return f"{socket.gethostname()} and the database differ by {skew:.1f} s"


def _broker(settings: Settings) -> str:
    if not settings.broker_url and not settings.redis_socket().exists():
        raise Sick(
            f"the private Redis does not run (no {settings.redis_socket()}); start `penstock up`, "
            "or set PENSTOCK_BROKER_URL"
        )
    with opened_transport(settings) as transport:
        depths = transport.depth(declared_queues())
        known = [depth.ready for depth in depths.values() if depth.ready is not None]
        name = transport.capabilities.name
    if "management=" in settings.broker_url and all(depth.in_flight is None for depth in depths.values()):
        raise Sick(
            f"{name} answered, but the management API that PENSTOCK_BROKER_URL names tells nothing; check host, port, "
            "user and password in its option `management`, and that the user may see the vhost (tag `management`)"
        )
    if len(known) < len(depths):
        return f"{name} answered; it does not tell how many messages wait"
    return f"{name} answered: {sum(known)} messages wait in {len(depths)} queues"


def _traces(settings: Settings) -> str:
    with closing(open_exporter(settings.traces_url)) as exporter:
        exporter.send(())
    return f"{settings.traces_url} answered; {settings.traces_share:.2%} of jobs are traced"


def _embedded_file_is_there(settings: Settings) -> None:
    """Looking must not create an empty database."""
    path = settings.resolved_data_dir() / "penstock.db"
    if not settings.database_url and not path.exists():
        raise Sick(f"there is no {path} yet; run `penstock up` or `penstock db upgrade`, or set PENSTOCK_DATABASE_URL")
