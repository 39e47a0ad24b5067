"""`penstock pilots`: the processes on worker nodes that run jobs."""

from __future__ import annotations

from functools import partial

import click

from pipeline.cli.options import example, json_option, pass_settings
from pipeline.cli.output import show_list
from pipeline.cli.remote import asked, gather
from pipeline.client import Client, open_client
from pipeline.settings import Settings
from schemas.pilot_views import PilotPage, PilotQuery
from schemas.states import PilotState

_COLUMNS = (
    *("id", "site", "queue", "host", "state", "draining", "batch_id", "cores", "jobs"),
    *("failures_in_row", "last_seen", "reason"),
)


@click.group(epilog=example("penstock pilots list --state running"))
def pilots() -> None:
    """List pilots."""


@pilots.command(
    "list", epilog=example("penstock pilots list --site CERN --state running", "penstock pilots list --json")
)
@click.option("--state", multiple=True, type=click.Choice([state.value for state in PilotState]), help="In it.")
@click.option("--site", help="At this site.")
@click.option("--queue", help="In the site queue of this name.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="At most so many.")
@json_option
@pass_settings
def list_(settings: Settings, /, *, limit: int, as_json: bool, **filters: object) -> None:
    """List your VO's pilots, the newest first."""
    query = asked(PilotQuery, **filters)
    with open_client(settings) as client:
        found = gather(partial(_page, client), query, limit)
    show_list(found, _COLUMNS, as_json=as_json, of="pilots")


def _page(client: Client, query: PilotQuery) -> PilotPage:
    return client.get("/v1/pilots", PilotPage, query)
