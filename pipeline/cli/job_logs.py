"""`penstock jobs logs`: what a job's attempts wrote, and what their pilots said of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import click

from pipeline.cli.options import RowId, example, json_option, pass_settings
from pipeline.cli.output import cells, moment, print_json, warn
from pipeline.cli.words import printable
from pipeline.client import Client, open_client
from pipeline.errors import NotFound
from pipeline.settings import Settings
from schemas.api import JobLogs, JobView
from schemas.pilot_views import PilotLog


@click.command(
    epilog=example(
        "penstock jobs logs 7",
        "penstock jobs logs 7 2> errors.txt",
        "penstock jobs logs 7 --all",
        "penstock jobs logs 7 --pilot",
    )
)
@click.argument("job_id", metavar="ID", type=RowId())
@click.option("--attempt", type=click.IntRange(1), help="Of this attempt [the running or newest one].")
@click.option("--all", "of_all", is_flag=True, help="Of every attempt, the first one first.")
@click.option("--pilot", is_flag=True, help="What the attempts' pilots wrote themselves, too.")
@json_option
@pass_settings
def logs(settings: Settings, /, *, job_id: int, as_json: bool, **how: Any) -> None:
    """Print what a job wrote: its output to standard output, its errors to standard error.

    Of a running job, the last lines that its pilot told. With --all or --pilot each part has a heading, on
    standard error, that says which attempt it is of, and what its pilot said of it.
    """
    if how["of_all"] and how["attempt"]:
        raise click.UsageError("--all and --attempt exclude each other.")
    with open_client(settings) as client:
        view = client.job(job_id) if how["of_all"] or how["pilot"] else None
        found = list(_attempts(client, job_id, how, view))
        pilots = _pilot_logs(client, found) if how["pilot"] else []
    if as_json:
        of_pilots = {"pilots": [cells(log) for log in pilots]} if how["pilot"] else {}
        print_json({"attempts": [cells(one) for one in found], **of_pilots} if view else cells(found[0]))
        return
    for one in found:
        _print(one, view)
    for log in pilots:
        _heading(f"pilot {log.pilot_id}, fetched {moment(log.fetched_at)} UTC")
        click.echo(log.stdout, nl=False)
        click.echo(log.stderr, nl=False, err=True)


def _attempts(client: Client, job_id: int, how: dict[str, Any], view: JobView | None) -> Iterator[JobLogs]:
    if view is None or not how["of_all"] or not view.attempt:
        yield client.logs(job_id, how["attempt"])
        return
    for attempt in range(1, view.attempt + 1):
        yield client.logs(job_id, attempt)


def _pilot_logs(client: Client, found: Sequence[JobLogs]) -> list[PilotLog]:
    """Those that were fetched; how the others are is said."""
    known: list[PilotLog] = []
    for pilot_id in dict.fromkeys(one.pilot_id for one in found if one.pilot_id is not None):
        try:
            known.append(client.pilot_log(pilot_id))
        except NotFound as error:
            warn(str(error))
    return known


def _print(found: JobLogs, view: JobView | None) -> None:
    if view is not None:
        _heading(_title(found, view))
    if found.source == "none":
        of = f"attempt {found.attempt} at job {found.job_id}" if found.attempt else f"job {found.job_id}"
        warn(f"{of} has written nothing yet that is known here")
    click.echo(found.stdout, nl=False)
    click.echo(found.stderr, nl=False, err=True)


def _title(found: JobLogs, view: JobView) -> str:
    said = {attempt.attempt: attempt for attempt in view.attempts}.get(found.attempt)
    words = [f"attempt {found.attempt}", f"pilot {found.pilot_id}" if found.pilot_id is not None else "no pilot"]
    if said is not None:
        code = "" if said.exit_code is None else f", exit code {said.exit_code}"
        words.append(f"{said.outcome}{code}{': ' + said.reason if said.reason else ''}")
    elif found.attempt == view.attempt:
        words.append(view.state)
    else:
        words.append("its pilot reported no end")
    return ", ".join(words)


def _heading(text: str) -> None:
    click.echo(click.style(f"== {printable(text)}", bold=True), err=True)
