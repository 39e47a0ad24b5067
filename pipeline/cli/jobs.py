"""`penstock jobs`: single jobs, their history, what they wrote."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from pipeline.cli.fetching import fetch_outputs
from pipeline.cli.options import example, json_option, pass_settings
from pipeline.cli.output import cells, print_json, show_list, show_one, warn
from pipeline.cli.remote import gather
from pipeline.client import open_client
from pipeline.settings import Settings
from schemas.api import Changed, JobQuery, JobSelection
from schemas.states import JobState

F = TypeVar("F", bound=Callable[..., Any])
COLUMNS = ("id", "campaign_id", "step", "index", "state", "attempt", "site", "exit_code", "changed_at", "reason")

job_id_argument = click.argument("job_id", metavar="ID", type=click.IntRange(1))


def filters(command: F) -> F:
    """The options that choose jobs."""
    for option in (
        click.option("--site", help="Assigned to this site."),
        click.option("--state", multiple=True, type=click.Choice([state.value for state in JobState]), help="In it."),
        click.option("--step", help="Of this step."),
        click.option("--campaign", type=click.IntRange(1), help="Of this campaign."),
    ):
        command = option(command)
    return command


@click.group(epilog=example("penstock jobs list --campaign 1 --state failed", "penstock jobs logs 7"))
def jobs() -> None:
    """List, show, kill and retry jobs; fetch their logs and outputs."""


@jobs.command("list", epilog=example("penstock jobs list --campaign 1 --state failed", "penstock jobs list --json"))
@filters
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="At most so many.")
@json_option
@pass_settings
def list_(settings: Settings, /, *, limit: int, as_json: bool, **options: Any) -> None:
    """List jobs by id."""
    query = JobQuery(campaign=options["campaign"], step=options["step"], state=options["state"], site=options["site"])
    with open_client(settings) as client:
        found = gather(client.jobs, query, limit)
    show_list(found, COLUMNS, as_json=as_json)


@jobs.command(epilog=example("penstock jobs show 7", "penstock jobs show 7 --json"))
@job_id_argument
@json_option
@pass_settings
def show(settings: Settings, /, *, job_id: int, as_json: bool) -> None:
    """Show a job with its history."""
    with open_client(settings) as client:
        view = client.job(job_id)
    if as_json:
        print_json(cells(view))
        return
    fields = cells(view)
    fields["outputs"] = [file["lfn"] for file in fields["outputs"]]
    peek = fields.pop("peek")
    show_one(fields, as_json=False)
    if peek is not None:
        click.echo(f"\nlast lines, {peek['at']}:\n{peek['tail']}")


@jobs.command(epilog=example("penstock jobs logs 7", "penstock jobs logs 7 2> errors.txt"))
@job_id_argument
@json_option
@pass_settings
def logs(settings: Settings, /, *, job_id: int, as_json: bool) -> None:
    """Print what a job wrote: its output to standard output, its errors to standard error.

    Of a running job, the last lines that its pilot told.
    """
    with open_client(settings) as client:
        found = client.logs(job_id)
    if as_json:
        print_json(cells(found))
        return
    if found.source == "none":
        warn(f"job {job_id} has written nothing yet that is known here")
    click.echo(found.stdout, nl=False)
    click.echo(found.stderr, nl=False, err=True)


@jobs.command(epilog=example("penstock jobs output 7 --to results"))
@job_id_argument
@click.option("--to", "folder", type=click.Path(file_okay=False, path_type=Path), default=Path(), help="Folder [here].")
@pass_settings
def output(settings: Settings, /, *, job_id: int, folder: Path) -> None:
    """Fetch a job's logs, kept files and outputs.

    Outputs are copied where their storage is a folder that this machine sees; the others' URLs are printed.
    """
    with open_client(settings) as client:
        missing = fetch_outputs(client, job_id, folder)
    if missing:
        raise click.exceptions.Exit(1)


@jobs.command(epilog=example("penstock jobs kill 7 8", "penstock jobs kill --campaign 1 --step analyse"))
@click.argument("ids", metavar="ID...", nargs=-1, type=click.IntRange(1))
@filters
@pass_settings
def kill(settings: Settings, /, *, ids: tuple[int, ...], **options: Any) -> None:
    """Kill jobs; those on a pilot end when it confirms."""
    selection = _selection(ids, options)
    with open_client(settings) as client:
        _say(client.kill(selection))


@jobs.command(epilog=example("penstock jobs retry 7 8", "penstock jobs retry --campaign 1"))
@click.argument("ids", metavar="ID...", nargs=-1, type=click.IntRange(1))
@filters
@pass_settings
def retry(settings: Settings, /, *, ids: tuple[int, ...], **options: Any) -> None:
    """Let failed jobs start again, their retry budgets fresh."""
    selection = _selection(ids, options)
    with open_client(settings) as client:
        _say(client.retry(selection))


def _selection(ids: tuple[int, ...], options: dict[str, Any]) -> JobSelection:
    if not ids and not any(options.values()):
        raise click.UsageError("Name jobs by id or by an option.")
    return JobSelection(
        ids=ids,
        campaign_id=options["campaign"],
        step=options["step"],
        states=options["state"],
        site=options["site"],
    )


def _say(answer: Changed) -> None:
    waiting = f", {answer.requested} wait for their pilot's word" if answer.requested else ""
    click.echo(f"{answer.changed} jobs changed{waiting}")
