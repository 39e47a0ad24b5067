"""`penstock consume`: a consumer's process."""

from __future__ import annotations

import click

from pipeline.cli.direct import known_queue
from pipeline.cli.options import example, pass_settings
from pipeline.logs import configure_logging
from pipeline.runtime.consumer import Consumer
from pipeline.settings import Settings
from pipeline.settings_check import check_settings
from pipeline.store import schema
from pipeline.store.database import Database


@click.command(epilog=example("penstock consume matching", "penstock consume optimisation matching pilots data upkeep"))
@click.argument("queues", metavar="QUEUE...", nargs=-1, required=True)
@pass_settings
def consume(settings: Settings, *, queues: tuple[str, ...]) -> None:
    """Run a consumer of one or several queues.

    Any number may run side by side. SIGTERM, or `penstock drain`, lets it finish what is in flight; a second
    SIGTERM ends it at once. SIGHUP reads the settings file again (PENSTOCK_SETTINGS_FILE).
    """
    for queue in queues:
        known_queue(queue)
    check_settings(settings)
    configure_logging(settings, "consumer")
    database = Database(settings.resolved_database_url())
    schema.check(database)
    database.close()
    raise click.exceptions.Exit(Consumer(settings, queues).run())
