"""`penstock instances`: which processes run."""

from __future__ import annotations

import click

from pipeline.cli.direct import opened_database
from pipeline.cli.options import example, json_option, pass_settings
from pipeline.cli.output import cells, show_list, warn
from pipeline.mixed_versions import mixture
from pipeline.queue_views import LIVE_WITHIN
from pipeline.settings import Settings
from pipeline.store import instances as store

COLUMNS = ("id", "queues", "version", "state", "wish", "in_flight", "silence")


@click.command(epilog=example("penstock instances", "penstock instances --json"))
@json_option
@pass_settings
def instances(settings: Settings, *, as_json: bool) -> None:
    """List the processes that run.

    An id names the kind of process, the host and the pid; --json has addresses and start times as well. SILENCE
    is seconds since one was last seen; one that was killed shows as silent until upkeep removes it. Where live ones
    are of different versions, a warning says how many of each.
    """
    with opened_database(settings) as database:
        rows = database.read(store.list_instances)
    live = [row for row in rows if row.silence < LIVE_WITHIN]
    shown = [cells(row) | ({} if row in live else {"state": "silent"}) for row in rows]
    show_list(shown, COLUMNS, as_json=as_json, of="processes")
    if (warning := mixture(rows)) is not None:
        warn(warning)
