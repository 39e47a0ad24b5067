"""`penstock trigger`: the declared schedule, and a tick out of turn."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

import click

from pipeline.cli.direct import opened_database, opened_transport, who
from pipeline.cli.options import example, json_option, pass_settings
from pipeline.cli.output import show_list
from pipeline.errors import NotFound
from pipeline.settings import Settings
from pipeline.store import trigger_runs
from pipeline.store.trigger_runs import Run
from pipeline.trigger import find_triggers
from schemas.messages import Message


@click.group(epilog=example("penstock trigger list", "penstock trigger run reconcile"))
def trigger() -> None:
    """List the triggers; publish a tick now."""


@trigger.command("list", epilog=example("penstock trigger list", "penstock trigger list --json"))
@json_option
@pass_settings
def list_(settings: Settings, /, *, as_json: bool) -> None:
    """List the triggers: when each is due by its schedule (UTC), and the last tick that was claimed."""
    triggers = find_triggers(settings)
    with opened_database(settings) as database:
        now = database.now()
        last = database.read(lambda tx: {name: trigger_runs.last_scheduled(tx, name) for name in triggers})
    rows = [
        {
            "name": name,
            "schedule": one.schedule,
            "last_claimed": last[name],
            "next_due": one.last_due(now) + timedelta(seconds=one.period(now)),
            "grace": one.grace,
        }
        for name, one in sorted(triggers.items())
    ]
    show_list(rows, ("name", "schedule", "last_claimed", "next_due", "grace"), as_json=as_json, of="triggers")


@trigger.command("run", epilog=example("penstock trigger run reconcile"))
@click.argument("name")
@pass_settings
def run_(settings: Settings, /, *, name: str) -> None:
    """Publish a trigger's tick now, whatever its schedule says."""
    triggers = find_triggers(settings)
    if name not in triggers:
        raise NotFound(f"there is no trigger {name!r}; there are {', '.join(sorted(triggers))}")
    with opened_database(settings) as database, opened_transport(settings) as transport:
        # a tick takes effect once per (name, time): a time between two of the schedule's is one of our own
        tick = Run(name, database.now())
        database.transact(partial(trigger_runs.claim, run=tick, instance=who()[:64]))
        transport.publish([Message.about(triggers[name].body(tick.scheduled_for), now=tick.scheduled_for)])
        database.transact(partial(trigger_runs.mark_published, runs=[tick]))
    click.echo(f"{name}: published")
