"""`penstock up`: everything on one machine."""

from __future__ import annotations

import os
from pathlib import Path

import click

from pipeline.cli.options import example, pass_settings
from pipeline.logs import configure_logging
from pipeline.settings import Settings
from pipeline.settings_check import check_settings
from pipeline.up.supervisor import run_everything


@click.command(epilog=example("penstock up", "PENSTOCK_DATA_DIR=/srv/penstock penstock up --ready-file /run/penstock"))
@click.option("--upgrade", is_flag=True, help="Upgrade the schema of a database that PENSTOCK_DATABASE_URL names.")
@click.option(
    "--ready-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Written, with the API's URL, once everything serves; removed at the end.",
)
@pass_settings
def up(settings: Settings, *, upgrade: bool, ready_file: Path | None) -> None:
    """Run everything on one machine.

    Starts a private Redis and an SQLite database in the data directory, unless the settings name others, then
    the API, one consumer of all queues (`penstock scale` adds more) and the triggers; starts again what dies;
    ends all of it, pilots of this machine too, at Ctrl-C or SIGTERM (a second one ends at once); lets all of it read
    the settings file again (PENSTOCK_SETTINGS_FILE) at SIGHUP. Prints `ready URL` once everything serves. The first
    start leaves an operator's token in the data directory.
    """
    check_settings(settings)
    configure_logging(settings, "up")
    # the processes started get this one's environment: that is where their settings come from
    raise click.exceptions.Exit(run_everything(settings, os.environ, upgrade=upgrade, ready_file=ready_file))
