"""`penstock scale`: how many processes of `penstock up` serve a queue."""

from __future__ import annotations

from typing import Any

import click

from pipeline.cli.direct import known_queue, opened_database, who
from pipeline.cli.options import example, json_option, pass_settings
from pipeline.cli.output import show_list
from pipeline.queue_views import serving
from pipeline.runtime.spec import declared_queues
from pipeline.settings import Settings
from pipeline.store.database import Transaction
from pipeline.store.instances import list_instances
from pipeline.store.queue_sizes import recent_sizes
from pipeline.store.worker_wishes import wish_workers, wished_workers

MOST = 64
"""Processes of one queue on one machine."""
_COLUMNS = ("queue", "processes", "consumers", "wanted", "wished_by", "wished_at")


@click.command(epilog=example("penstock scale optimisation 4", "penstock scale optimisation 1", "penstock scale"))
@click.argument("queue", required=False)
@click.argument("processes", metavar="[N]", type=click.IntRange(1, MOST), required=False)
@json_option
@pass_settings
def scale(settings: Settings, *, queue: str | None, processes: int | None, as_json: bool) -> None:
    """Let N processes of `penstock up` serve a queue; list how many do.

    The first is the consumer that serves all queues; the others serve this one alone. `penstock up` sees the
    number within 2 seconds and keeps to it, also when it is started again; surplus processes finish what they
    have and end. Every `penstock up` on this database does; consumers that something else runs are scaled there.

    Without arguments: PROCESSES is what was asked for here, CONSUMERS is how many serve the queue now, WANTED is
    how many it needs by what arrives and what waits.
    """
    if queue is None:
        with opened_database(settings) as database:
            rows = database.read(_list)
        show_list(rows, _COLUMNS, as_json=as_json, of="queues")
        return
    known_queue(queue)
    if processes is None:
        raise click.UsageError("how many? `penstock scale` without arguments lists what there is.")
    with opened_database(settings) as database:
        database.transact(lambda tx: wish_workers(tx, queue, processes, who()))
    click.echo(f"{queue}: {processes} process{'es' if processes > 1 else ''} wished of `penstock up`")


def _list(tx: Transaction) -> list[dict[str, Any]]:
    wishes, sizes, rows = wished_workers(tx), recent_sizes(tx), list_instances(tx)
    return [
        {
            "queue": queue,
            "processes": wish.workers if (wish := wishes.get(queue)) else 1,
            "consumers": len(serving(queue, rows)),
            "wanted": sizes[queue].wanted if queue in sizes else None,
            "wished_by": wish and wish.wished_by,
            "wished_at": wish and wish.wished_at,
        }
        for queue in declared_queues()
    ]
