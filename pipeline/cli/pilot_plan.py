"""`penstock pilots plan`: what provisioning would do now, and why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from pipeline.cli import offered
from pipeline.cli.options import example, json_option, pass_settings
from pipeline.cli.output import cells, moment, print_json, show_table, warn
from pipeline.cli.remote import asked
from pipeline.cli.words import counted
from pipeline.client import open_client
from pipeline.settings import Settings
from schemas.plan_views import PlanQuery, PlanRow, PlanView
from schemas.states import PILOT_ACTIVE, PILOT_PENDING, PilotState

_COLUMNS = ("site", "queue", "waiting", "running", "idle", "pending", "held", "wanted", "plan", "why")


@click.command(epilog=example("penstock pilots plan", "penstock pilots plan --site CERN --json"))
@click.option("--site", help="At this site.", shell_complete=offered.sites)
@click.option("--queue", help="In the site queue of this name.", shell_complete=offered.queues)
@json_option
@pass_settings
def plan(settings: Settings, /, *, site: str | None, queue: str | None, as_json: bool) -> None:
    """Show what provisioning would do now at your VO's site queues, and why; nothing is done.

    WAITING are jobs that could run there (one that fits several queues is counted at each); RUNNING, IDLE (of those,
    without a job), PENDING and HELD are pilots that are there; WANTED is how many the work wants. PLAN: +3 are new,
    -2 are pending ones that go, "drain 1" takes no more jobs.
    """
    with open_client(settings) as client:
        view = client.plan(asked(PlanQuery, site=site, queue=queue))
    if as_json:
        print_json(cells(view))
    else:
        _show(view)


def _show(view: PlanView) -> None:
    show_table([_row(row) for row in view.items], _COLUMNS)
    if not view.items:
        click.echo("no site queues; `penstock sites list` shows those that there are", err=True)
    waiting = f"{counted(view.waiting_jobs, 'job')} of your VO wait for {counted(view.waiting_cores, 'core')}"
    click.echo(f"{waiting}: {', '.join(_sum(view)) or 'nothing would change'}", err=True)
    if not view.is_sure:
        warn("it is not sure that this is all of the work, so nothing goes")


def _row(row: PlanRow) -> dict[str, Any]:
    """A line; what is nothing is left empty, so that a narrow terminal goes without the column."""
    pilots = row.pilots
    return {
        "site": row.site,
        "queue": row.queue,
        "waiting": row.waiting_jobs,
        "running": sum(pilots.get(state, 0) for state in PILOT_ACTIVE),
        "idle": row.idle or None,
        "pending": sum(pilots.get(state, 0) for state in PILOT_PENDING),
        "held": pilots.get(PilotState.HELD),
        "wanted": row.wanted,
        "plan": ", ".join(_orders(row)),
        "why": row.why + "".join(_until(row)),
    }


def _orders(row: PlanRow) -> Iterator[str]:
    if row.request:
        yield f"+{row.request}"
    if row.remove:
        yield f"-{row.remove}"
    if row.drain:
        yield f"drain {row.drain}"


def _until(row: PlanRow) -> Iterator[str]:
    until = row.backoff_until or row.hold_until
    if until is not None:
        yield f" (until {moment(until)})"


def _sum(view: PlanView) -> Iterator[str]:
    for many, word in ((view.request, "requested"), (view.remove, "removed"), (view.drain, "drained")):
        if many:
            yield f"{counted(many, 'pilot')} would be {word}"
