"""`penstock consume`: a consumer's process."""

from __future__ import annotations

import click

from pipeline.cli.direct import known_queue
from pipeline.cli.options import example, pass_settings
from pipeline.logs import configure_logging
from pipeline.runtime.consumer import Consumer
from pipeline.settings import Settings
from pipeline.store import schema
from pipeline.store.database import Database
from pipeline.transport.port import open_transport


@click.command(epilog=example("penstock consume matching", "penstock consume optimisation matching pilots data upkeep"))
@click.argument("queues", metavar="QUEUE...", nargs=-1, required=True)
@pass_settings
def consume(settings: Settings, *, queues: tuple[str, ...]) -> None:
    """Run a consumer of one or several queues.

    Any number may run side by side. SIGTERM, or `penstock drain`, lets it finish what is in flight; a second
    SIGTERM ends it at once.
    """
    for queue in queues:
        known_queue(queue)
    # It connects to nothing yet: a URL that is wrong is told here, not in the loops' threads.
    open_transport(settings.resolved_broker_url(), "consume").close()
    configure_logging(settings, "consumer")
    database = Database(settings.resolved_database_url())
    schema.check(database)
    database.close()
    raise click.exceptions.Exit(Consumer(settings, queues).run())
