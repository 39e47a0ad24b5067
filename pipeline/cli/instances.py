"""`penstock instances`: which processes run."""

from __future__ import annotations

import click

from pipeline.cli.direct import opened_database
from pipeline.cli.options import example, json_option, pass_settings
from pipeline.cli.output import cells, show_list, warn
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
    is seconds since one was last seen; one that was killed shows as silent until upkeep removes it.
    """
    with opened_database(settings) as database:
        rows = database.read(store.list_instances)
    live = [row for row in rows if row.silence < LIVE_WITHIN]
    shown = [cells(row) | ({} if row in live else {"state": "silent"}) for row in rows]
    show_list(shown, COLUMNS, as_json=as_json, of="processes")
    versions = sorted({row.version for row in live})
    if len(versions) > 1:
        warn(f"versions differ: {', '.join(versions)}; finish the upgrade")
