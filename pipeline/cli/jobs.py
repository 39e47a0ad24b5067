"""`penstock jobs`: single jobs, their history, what they wrote."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from pipeline.cli.fetching import fetch_outputs
from pipeline.cli.job_logs import logs
from pipeline.cli.job_page import show_job
from pipeline.cli.options import RowId, example, json_option, pass_settings
from pipeline.cli.output import cells, print_json, show_list
from pipeline.cli.remote import asked, gather, what_changed
from pipeline.cli.why_page import show_why
from pipeline.client import open_client
from pipeline.settings import Settings
from schemas.api import Changed, JobQuery, JobSelection
from schemas.states import JobState

F = TypeVar("F", bound=Callable[..., Any])
COLUMNS = ("id", "campaign_id", "step", "index", "state", "attempt", "site", "exit_code", "changed_at", "reason")

job_id_argument = click.argument("job_id", metavar="ID", type=RowId())


def filters(command: F) -> F:
    """The options that choose jobs."""
    for option in (
        click.option("--site", help="Assigned to this site."),
        click.option("--state", multiple=True, type=click.Choice([state.value for state in JobState]), help="In it."),
        click.option("--step", help="Of this step."),
        click.option("--campaign", type=RowId(), help="Of this campaign."),
    ):
        command = option(command)
    return command


@click.group(epilog=example("penstock jobs list --campaign 1 --state failed", "penstock jobs logs 7"))
def jobs() -> None:
    """List, show, explain, kill and retry jobs; fetch what they left."""


@jobs.command("list", epilog=example("penstock jobs list --campaign 1 --state failed", "penstock jobs list --json"))
@filters
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="At most so many.")
@json_option
@pass_settings
def list_(settings: Settings, /, *, limit: int, as_json: bool, **options: Any) -> None:
    """List jobs by id."""
    query = asked(
        JobQuery, campaign=options["campaign"], step=options["step"], state=options["state"], site=options["site"]
    )
    with open_client(settings) as client:
        found = gather(client.jobs, query, limit)
    columns = [name for name in COLUMNS if not options["campaign"] or name != "campaign_id"]
    show_list(found, columns, as_json=as_json, of="jobs")


@jobs.command(epilog=example("penstock jobs show 7", "penstock jobs show 7 --json"))
@job_id_argument
@json_option
@pass_settings
def show(settings: Settings, /, *, job_id: int, as_json: bool) -> None:
    """Show a job: its story with places, waits and reasons, its attempts, its outputs."""
    with open_client(settings) as client:
        view = client.job(job_id)
    if as_json:
        print_json(cells(view))
    else:
        show_job(view)


@jobs.command(epilog=example("penstock jobs why 7", "penstock jobs why 7 --json"))
@job_id_argument
@json_option
@pass_settings
def why(settings: Settings, /, *, job_id: int, as_json: bool) -> None:
    """Tell why a job is in its state, and what each site queue lacks for it."""
    with open_client(settings) as client:
        view = client.why(job_id)
    if as_json:
        print_json(cells(view))
    else:
        show_why(view)


jobs.add_command(logs)


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
@click.argument("ids", metavar="ID...", nargs=-1, type=RowId())
@filters
@pass_settings
def kill(settings: Settings, /, *, ids: tuple[int, ...], **options: Any) -> None:
    """Kill jobs; those on a pilot end when it confirms."""
    selection = _selection(ids, options)
    with open_client(settings) as client:
        _say(client.kill(selection), "none of them could be killed: they had ended")


@jobs.command(epilog=example("penstock jobs retry 7 8", "penstock jobs retry --campaign 1"))
@click.argument("ids", metavar="ID...", nargs=-1, type=RowId())
@filters
@pass_settings
def retry(settings: Settings, /, *, ids: tuple[int, ...], **options: Any) -> None:
    """Let failed jobs start again, their retry budgets fresh."""
    selection = _selection(ids, options)
    with open_client(settings) as client:
        _say(client.retry(selection), "only failed jobs start again, and none of them is")


def _selection(ids: tuple[int, ...], options: dict[str, Any]) -> JobSelection:
    if not ids and not any(options.values()):
        raise click.UsageError("Name jobs by id or by an option.")
    return asked(
        JobSelection,
        ids=ids,
        campaign_id=options["campaign"],
        step=options["step"],
        states=options["state"],
        site=options["site"],
    )


def _say(answer: Changed, nothing: str) -> None:
    done = what_changed(answer)
    click.echo(", ".join(done) or "0 jobs changed")
    if not done:
        click.echo(nothing, err=True)
