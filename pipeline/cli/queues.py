"""`penstock queues`, `pause`, `resume`: how full the queues are, and who may receive."""

from __future__ import annotations

import click

from pipeline.cli.direct import known_queue, opened_database, opened_transport, who
from pipeline.cli.options import example, json_option, pass_settings
from pipeline.cli.output import show_list
from pipeline.queue_views import survey
from pipeline.runtime.spec import declared_queues
from pipeline.settings import Settings
from pipeline.store import drains, instances
from pipeline.store.database import Transaction
from pipeline.store.drains import Aim
from pipeline.store.queue_sizes import recent_sizes
from schemas.drain_views import DrainKind

_COLUMNS = ("queue", "ready", "in_flight", "oldest_age", "consumers", "wanted", "wish")


@click.command(epilog=example("penstock queues", "penstock queues --json"))
@json_option
@pass_settings
def queues(settings: Settings, *, as_json: bool) -> None:
    """Show how full each queue is and who serves it.

    READY messages wait, those IN FLIGHT are with a consumer; OLDEST AGE is in seconds; WANTED is how many
    CONSUMERS the queue needs by what arrives and what waits, as the API measures it; WISH is what an operator
    asked for: pause or drain. What the broker does not tell is what consumers saw last, and - where
    they can't tell either.
    """
    names = declared_queues()
    with opened_database(settings) as database, opened_transport(settings) as transport:
        rows, controls, measured = database.read(
            lambda tx: (instances.list_instances(tx), instances.controls(tx), recent_sizes(tx))
        )
        views = survey(transport.depth(names), rows, controls, measured)
    show_list(views, _COLUMNS, as_json=as_json, of="queues")


@click.command(epilog=example("penstock pause matching"))
@click.argument("queue")
@pass_settings
def pause(settings: Settings, *, queue: str) -> None:
    """Let the consumers of a queue stop receiving.

    They see it within 2 seconds, finish what they have and go on running; later ones heed it too, until
    `penstock resume`.
    """
    known_queue(queue)
    with opened_database(settings) as database:
        database.transact(lambda tx: instances.pause(tx, queue, who()))
    click.echo(f"{queue}: paused")


@click.command(epilog=example("penstock resume matching"))
@click.argument("queue")
@pass_settings
def resume(settings: Settings, *, queue: str) -> None:
    """Take a pause or drain of a queue back."""
    known_queue(queue)
    with opened_database(settings) as database:
        changed = database.transact(lambda tx: _resume(tx, queue))
    click.echo(f"{queue}: resumed" if changed else f"{queue}: was not paused")


def _resume(tx: Transaction, queue: str) -> bool:
    lifted = drains.lift(tx, Aim(DrainKind.QUEUE, queue), who())
    return instances.resume(tx, queue) or lifted is not None
