"""`penstock db`: the database's schema."""

from __future__ import annotations

import click

from pipeline.cli.direct import opened_database
from pipeline.cli.options import example, pass_settings
from pipeline.settings import Settings
from pipeline.store import migration, schema


@click.group(epilog=example("penstock db upgrade", "penstock db check"))
def db() -> None:
    """Upgrade or check the database's schema."""


@db.command(epilog=example("penstock db upgrade"))
@pass_settings
def upgrade(settings: Settings) -> None:
    """Bring the schema to the one of this release.

    The release before goes on working on it, so upgrade first and exchange the processes then. Running it
    again, or twice at once, does no harm.
    """
    if not settings.database_url:
        settings.resolved_data_dir().mkdir(mode=0o700, parents=True, exist_ok=True)
    with opened_database(settings, checked=False) as database:
        before, after = migration.upgrade(database)
        where = database.safe_url()
    change = f"is at {after} already" if before == after else f"upgraded from {before or 'nothing'} to {after}"
    click.echo(f"{where}: {change}")


@db.command(epilog=example("penstock db check && penstock api"))
@pass_settings
def check(settings: Settings) -> None:
    """Say whether this release works on the schema; exit code 2 when it is too old."""
    with opened_database(settings) as database:
        click.echo(f"{database.safe_url()}: schema {schema.current(database)} serves")
