"""`penstock redis`: the private Redis as a process of its own, for a Procfile."""

from __future__ import annotations

import os
import signal

import click

from pipeline.cli.options import example, pass_settings
from pipeline.embedded import redis_command
from pipeline.settings import Settings


@click.command(epilog=example("penstock redis"))
@pass_settings
def redis(settings: Settings) -> None:
    """Run the private Redis, for a Procfile without a broker.

    With PENSTOCK_BROKER_URL set there is nothing to run: it waits for its end, so that one Procfile serves
    both. `penstock up` runs its Redis itself.
    """
    if not settings.broker_url:
        command = redis_command(settings)
        os.execv(command[0], command)  # noqa: S606 - it becomes that program, no shell in between
    click.echo("PENSTOCK_BROKER_URL is set, so no private Redis is needed; waiting for the end")
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    signal.sigwait(ends)
