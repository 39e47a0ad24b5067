"""A job's story on one page: what it is, what happened to it and why, what it left."""

from __future__ import annotations

import shlex
from typing import Any

import click

from pipeline.cli.output import moment, show_fields, show_table, show_title
from pipeline.cli.words import lasting, printable
from schemas.api import FileView, JobView
from schemas.campaign import BUILT_IN
from schemas.story import StoryLine


def show_job(view: JobView) -> None:
    """Print the page."""
    head = f"job {view.id}: campaign {view.campaign_id}, step {view.step}, index {view.index}"
    click.echo(click.style(head, bold=True))
    show_fields(_fields(view))
    show_title("story")
    show_table([_line(line) for line in view.story or _older(view)], ("at", "for", "attempt", "state", "where", "what"))
    if view.attempts:
        show_title("attempts that ended (times in seconds, memory in MiB)")
        columns = ("attempt", "outcome", "exit_code", "wall_time", "cpu_time", "memory", "minor", "reason")
        show_table([attempt.model_dump() for attempt in view.attempts], columns)
    if view.outputs:
        show_title("outputs")
        show_table([_output_row(file) for file in view.outputs], ("file", "size", "adler32", "state", "url"))
    if view.peek is not None:
        show_title(f"last lines of attempt {view.peek.attempt}, at {moment(view.peek.at)}")
        click.echo(printable(view.peek.tail))
    elif view.attempts:
        more = " --all" if len(view.attempts) > 1 else ""
        click.echo(f"\nwhat it wrote: penstock jobs logs {view.id}{more}")


def _fields(view: JobView) -> dict[str, Any]:
    where = f"{view.site}, pilot {view.pilot_id}" if view.site and view.pilot_id else view.site
    return {
        "state": view.state,
        "since": view.changed_at,
        "reason": view.reason,
        "kill requested": view.kill_requested or None,
        "where": where,
        "exit code": view.exit_code,
        "attempts": _attempts(view),
        "command": shlex.join(view.command),
        "parameters": {name: value for name, value in view.parameters.items() if name not in BUILT_IN},
        "owner": view.owner,
        "priority": view.priority or None,
        "created": view.created_at,
        "trace": view.trace_id,
    }


def _line(line: StoryLine) -> dict[str, Any]:
    where = "/".join(part for part in (line.site, line.site_queue) if part)
    node = f" on {line.node}" if line.node else ""
    return {
        "at": line.at,
        "for": "" if line.seconds is None else lasting(line.seconds),
        "attempt": line.attempt,
        "state": line.state,
        "where": f"{where}{node}",
        "what": line.text,
    }


def _older(view: JobView) -> list[StoryLine]:
    """From an API of a release before 0.5.0, which tells no story."""
    return [
        StoryLine(at=event.at, state=event.to_state, attempt=event.attempt, text=event.reason or "", seconds=None)
        for event in view.events
    ]


def _attempts(view: JobView) -> str:
    spent = ((view.infrastructure_losses, "lost to the infrastructure"), (view.payload_failures, "failed by itself"))
    words = [f"{count} {what}" for count, what in spent if count]
    return f"{view.attempt} ({', '.join(words)})" if words else str(view.attempt)


def _output_row(file: FileView) -> dict[str, Any]:
    replicas = file.replicas
    return {
        "file": file.name,
        "size": file.size,
        "adler32": file.adler32,
        "state": replicas[0].state if replicas else "lost",
        "url": [replica.url for replica in replicas],
    }
