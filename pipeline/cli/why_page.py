"""Why a job is in its state, on one page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from pipeline.cli.limits import limit_row
from pipeline.cli.output import moment, show_fields, show_table, show_title
from pipeline.cli.words import counted, printable
from schemas.states import JOB_FINAL, JobState
from schemas.why_views import MOST_COUNTED, JobWhy, QueueWhy, Turn

UNASSIGNED = frozenset({JobState.RECEIVED, JobState.HELD, JobState.STAGING, JobState.WAITING})
"""States in which it matters what site queues say."""


def show_why(view: JobWhy) -> None:
    """Print the page."""
    head = f"job {view.job_id}: {view.state} since {moment(view.changed_at)} UTC"
    click.echo(click.style(head, bold=True))
    for reason in view.because:
        click.echo(f"  {printable(reason)}")
    if view.state in JOB_FINAL:
        return
    click.echo()
    show_fields(
        {
            "campaign": f"{view.campaign_id}, step {view.step}",
            "charged to": f"owner {view.owner} of group {view.group}",
            "job type": view.job_type,
            "priority": view.priority or None,
            "wants": _wants(view),
            "its turn": None if view.turn is None else "; ".join(_turn(view.turn)),
        }
    )
    if view.state not in UNASSIGNED:
        return
    if view.full:
        show_title("limits without room")
        show_table([limit_row(limit) for limit in view.full], ("name", "kind", "about", "maximum", "running"))
    show_title("site queues of your VO")
    columns = ("site", "queue", "fits", "pilots", "free_cores", "room_for", "reason")
    show_table([_queue_row(queue) for queue in view.queues], columns)
    if not view.queues:
        click.echo("  none; `penstock sites apply` declares them")


def _wants(view: JobWhy) -> str:
    """All that it says, and the numbers that hold when nothing is said."""
    wanted = view.requirement
    written = {"cores": wanted.cores, "memory": wanted.memory, "disk": wanted.disk, "wall_time": wanted.wall_time}
    said = wanted.model_dump(mode="json", exclude_defaults=True)
    return " ".join(f"{name}={_word(value)}" for name, value in {**written, **said}.items())


def _word(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_word(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_word(inner) for inner in value) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _turn(turn: Turn) -> Iterator[str]:
    yield f"group {turn.group} is {_ordinal(turn.group_place)} of {turn.groups}"
    yield f"owner {turn.owner} is {_ordinal(turn.owner_place)} of {turn.owners} in it"
    if turn.higher:
        yield f"{_many(turn.higher)} of that owner with a higher priority"
    if turn.older:
        yield f"{_many(turn.older)} of its own kind that waited longer"


def _ordinal(number: int) -> str:
    ending = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def _many(number: int) -> str:
    return f"{number} jobs or more" if number >= MOST_COUNTED else counted(number, "job")


def _queue_row(queue: QueueWhy) -> dict[str, Any]:
    return {
        "site": queue.site,
        "queue": queue.queue,
        "fits": queue.fits,
        "pilots": {state.value: many for state, many in queue.pilots.items()},
        "free_cores": queue.free_cores,
        "room_for": queue.room_for,
        "reason": "; ".join(_obstacles(queue)),
    }


def _obstacles(queue: QueueWhy) -> Iterator[str]:
    yield from queue.missing
    if queue.banned:
        yield f"banned {queue.banned}"
    if queue.test_mode:
        yield f"in test mode: only jobs of type {queue.test_mode}"
    if not queue.max_pilots:
        yield "takes no pilots: max_pilots is 0"
    if queue.full:
        yield f"full: {', '.join(queue.full)}"
    if queue.backoff_until:
        yield f"no new pilots until {moment(queue.backoff_until)}: {queue.backoff_reason or 'its batch system failed'}"
