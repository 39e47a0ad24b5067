"""All about a pilot on one page: why it is as it is, its node, its times, the jobs at hand."""

from __future__ import annotations

from typing import Any

import click

from pipeline.cli.output import show_fields, show_table, show_title
from pipeline.cli.words import printable
from schemas.pilot_views import PilotDetail


def show_pilot(view: PilotDetail) -> None:
    """Print the page."""
    head = f"pilot {view.id}: {view.state} at {view.site}/{view.queue}"
    click.echo(click.style(head, bold=True))
    for reason in view.because:
        click.echo(f"  {printable(reason)}")
    click.echo()
    show_fields(_fields(view))
    if view.node:
        show_title("node")
        show_fields(_flat(view.node))
    if view.jobs_at_hand:
        show_title("jobs at hand")
        columns = ("id", "campaign_id", "step", "state", "attempt", "cores", "since")
        show_table([job.model_dump() for job in view.jobs_at_hand], columns)
    click.echo(f"\nwhat it wrote: penstock pilots log {view.id}{'' if view.output_at else ' --fresh'}")


def _fields(view: PilotDetail) -> dict[str, Any]:
    return {
        "batch system": view.batch_system,
        "batch id": view.batch_id,
        "tag": view.tag,
        "cores": view.cores,
        "version": view.version,
        "requested": view.requested_at,
        "submitted": view.submitted_at,
        "held since": view.held_at,
        "released": f"{view.releases} times" if view.releases > 1 else "once" if view.releases else None,
        "started": view.started_at,
        "last seen": view.last_seen,
        "ends at": view.ends_at if view.ended_at is None else None,
        "proxy ends at": view.proxy_ends_at,
        "ended": view.ended_at,
        "cycles without a job": view.idle_cycles or None,
        "failures in a row": view.failures_in_row or None,
        "output fetched": view.output_at,
        "output wanted since": view.output_wanted_at,
    }


def _flat(node: dict[str, Any]) -> dict[str, Any]:
    """What a pilot found, a line per value; values within values by both of their names."""
    found: dict[str, Any] = {}
    for name, value in node.items():
        if isinstance(value, dict):
            found |= {inner if name == "details" else f"{name} {inner}": each for inner, each in _flat(value).items()}
        else:
            found[name] = value
    return found
