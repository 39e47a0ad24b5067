"""`penstock triggers`: the clock's process, found by entry point since it lies above the CLI."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points

import click

from pipeline.cli.options import example, pass_settings
from pipeline.errors import BadSettings
from pipeline.logs import configure_logging
from pipeline.settings import Settings
from pipeline.settings_check import check_settings
from pipeline.store import schema
from pipeline.store.database import Database


@click.command(epilog=example("penstock triggers"))
@pass_settings
def triggers(settings: Settings) -> None:
    """Run the clock that publishes what is due.

    Any number may run side by side: each tick takes effect once. SIGTERM ends it, SIGHUP reads the
    settings file again (PENSTOCK_SETTINGS_FILE).
    """
    found = list(entry_points(group="penstock.processes", name="triggers"))
    if not found:
        raise BadSettings("no clock is installed: no entry point `triggers` of penstock.processes; install penstock")
    run: Callable[[Settings], int | None] = found[0].load()
    check_settings(settings)
    configure_logging(settings, "triggers")
    database = Database(settings.resolved_database_url())
    schema.check(database)
    database.close()
    raise click.exceptions.Exit(run(settings) or 0)
