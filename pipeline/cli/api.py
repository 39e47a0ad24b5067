"""`penstock api`: the HTTP API's process."""

from __future__ import annotations

import click

from pipeline.api.server import serve
from pipeline.cli.options import example, pass_settings
from pipeline.logs import configure_logging
from pipeline.settings import Settings
from pipeline.settings_check import check_settings


@click.command(epilog=example("penstock api", "PENSTOCK_API_HOST=0.0.0.0 PENSTOCK_API_PORT=8470 penstock api"))
@pass_settings
def api(settings: Settings) -> None:
    """Run the HTTP API.

    Any number may run side by side. Where it listens stands in `api.url` in the data directory. SIGTERM lets
    it finish what it is answering; a second one ends it at once. SIGHUP reads the settings file again
    (PENSTOCK_SETTINGS_FILE), and the TLS certificate.
    """
    check_settings(settings)
    configure_logging(settings, "api")
    serve(settings)
