"""`penstock pilots`: the processes on worker nodes that run jobs."""

from __future__ import annotations

from typing import Any

import click

from pipeline.cli import offered
from pipeline.cli.options import RowId, example, json_option, pass_settings
from pipeline.cli.output import cells, print_json, show_list, warn
from pipeline.cli.pilot_commands import drain, kill
from pipeline.cli.pilot_log import log
from pipeline.cli.pilot_page import show_pilot
from pipeline.cli.pilot_plan import plan
from pipeline.cli.pilot_program import program
from pipeline.cli.remote import asked, gather
from pipeline.cli.words import counted
from pipeline.client import open_client
from pipeline.errors import BadInput
from pipeline.settings import Settings
from schemas.pilot_views import PilotOrder, PilotQuery, PilotView
from schemas.states import PilotState

_COLUMNS = (
    *("id", "site", "queue", "host", "state", "leaving", "releases", "batch_id", "cores", "jobs"),
    *("failures_in_row", "last_seen", "reason"),
)


@click.group(epilog=example("penstock pilots list --state running", "penstock pilots plan"))
def pilots() -> None:
    """List, show, submit, drain and kill pilots; show what is planned."""


@pilots.command(
    "list",
    epilog=example(
        "penstock pilots list --site CERN --state running --state held", "penstock pilots list --limit 5 --json"
    ),
)
@click.option(
    "--state", multiple=True, type=click.Choice([state.value for state in PilotState]), help="In it; may be repeated."
)
@click.option("--site", help="At this site.", shell_complete=offered.sites)
@click.option("--queue", help="In the site queue of this name.", shell_complete=offered.queues)
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="At most so many.")
@json_option
@pass_settings
def list_(settings: Settings, /, *, limit: int, as_json: bool, **filters: object) -> None:
    """List your VO's pilots, the newest first.

    REASON says why one is held, drains or has ended; LEAVING, that it drains or is to be removed; RELEASES, how often
    it was held and let go on.
    """
    query = asked(PilotQuery, **filters)
    with open_client(settings) as client:
        found = gather(client.pilots, query, limit)
    show_list(found if as_json else map(_row, found), _COLUMNS, as_json=as_json, of="pilots")


@pilots.command(epilog=example("penstock pilots show 7", "penstock pilots show 7 --json"))
@click.argument("pilot_id", metavar="ID", type=RowId(), shell_complete=offered.pilots)
@json_option
@pass_settings
def show(settings: Settings, /, *, pilot_id: int, as_json: bool) -> None:
    """Show a pilot: why it is as it is, its node, its times, the jobs at hand."""
    with open_client(settings) as client:
        view = client.pilot(pilot_id)
    if as_json:
        print_json(cells(view))
    else:
        show_pilot(view)


@pilots.command(epilog=example("penstock pilots submit CERN/short 4"))
@click.argument("place", metavar="SITE/QUEUE", shell_complete=offered.labels)
@click.argument("count", metavar="N", type=click.IntRange(1))
@pass_settings
def submit(settings: Settings, /, *, place: str, count: int) -> None:
    """Submit pilots by hand: all of them, or none where a limit is in the way.

    Provisioning treats them like its own: those that no job wants go again, as the queue's `removal` says.
    """
    site, slash, queue = place.partition("/")
    if not slash:
        raise BadInput(f"{place!r} is no site queue; write it like CERN/short (`penstock sites list` shows them)")
    order = asked(PilotOrder, site=site, queue=queue, count=count)
    with open_client(settings) as client:
        made = client.submit_pilots(order)
    for warning in made.warnings:
        warn(warning)
    first, last = made.pilot_ids[0], made.pilot_ids[-1]
    which = f"{first}" if len(made.pilot_ids) == 1 else f"{first} to {last}"
    click.echo(f"{counted(len(made.pilot_ids), 'pilot')} requested on {place}: {which}")


pilots.add_command(plan)
pilots.add_command(log)
pilots.add_command(drain)
pilots.add_command(kill)
pilots.add_command(program)


def _row(pilot: PilotView) -> dict[str, Any]:
    """A line of the list; what is nothing is left empty, so that a narrow terminal goes without the column."""
    leaving = "is removed" if pilot.removing else "drains" if pilot.draining else None
    return pilot.model_dump() | {
        "leaving": leaving,
        "releases": pilot.releases or None,
        "failures_in_row": pilot.failures_in_row or None,
    }
