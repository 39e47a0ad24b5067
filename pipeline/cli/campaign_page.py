"""A campaign on one page: its steps, what keeps it from going on, what to do about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import click

from pipeline.cli.output import show_fields, show_table, show_title
from pipeline.cli.progress import newest_steps, step_counts
from pipeline.cli.words import counted, printable
from pipeline.client import Client
from schemas.api import MAX_PAGE, CampaignView, JobQuery, StepView
from schemas.states import JobState, StepState

TROUBLED = (JobState.HELD, JobState.STALLED, JobState.FAILED)


def show_campaign(client: Client, view: CampaignView) -> None:
    """Print the page; asks for the jobs in trouble."""
    click.echo(click.style(f"campaign {view.id}: {printable(view.name)}", bold=True))
    fields = {"state": view.state, "owner": view.owner, "created": view.created_at, "ended": view.ended_at}
    show_fields(fields)
    show_title("steps")
    columns = ("name", "version", "state", "jobs", "files", "after", "ended_at")
    show_table([_step_row(step) for step in view.steps], columns)
    if troubles := _troubles(client, view):
        show_title("jobs that are held, stalled or failed")
        show_table(troubles, ("step", "state", "count", "first_job", "reason"))
    hints = [*advice(view), *_where_outputs_are(view)]
    if hints:
        click.echo()
    for hint in hints:
        click.echo(hint)


def advice(view: CampaignView) -> Iterator[str]:
    """For each blocked step, why it is and which commands decide what becomes of it."""
    for step in newest_steps(view):
        if step.state is StepState.BLOCKED:
            done, total = step.jobs.get(JobState.DONE, 0), sum(step.jobs.values())
            yield (
                f"step {step.name} is blocked: {done} of {counted(total, 'job')} done, {step.min_success:.0%} "
                "must be; the others failed or were killed"
            )
            ends = [state for state in (JobState.FAILED, JobState.KILLED) if step.jobs.get(state)]
            states = " ".join(f"--state {state}" for state in ends)
            yield f"  why:             penstock jobs list --campaign {view.id} --step {step.name} {states}"
            if JobState.FAILED in ends:
                yield f"  try again:       penstock campaigns retry {view.id}"
            yield f"  go on without:   penstock campaigns accept {view.id} {step.name}"


def _step_row(step: StepView) -> dict[str, Any]:
    return step.model_dump() | {"jobs": step_counts(step)}


def _troubles(client: Client, view: CampaignView) -> list[dict[str, Any]]:
    """Jobs in trouble, by step, state and reason; of very many, the first."""
    if not any(step.jobs.get(state) for step in view.steps for state in TROUBLED):
        return []
    page = client.jobs(JobQuery(campaign=view.id, state=TROUBLED, limit=MAX_PAGE))
    counts = Counter((job.step, job.state, job.reason) for job in page.items)
    first = {(job.step, job.state, job.reason): job.id for job in reversed(page.items)}
    more = "+" if page.next is not None else ""
    return [
        {"step": key[0], "state": key[1], "reason": key[2], "count": f"{count}{more}", "first_job": first[key]}
        for key, count in counts.items()
    ]


def _where_outputs_are(view: CampaignView) -> Iterator[str]:
    datasets = [step.dataset for step in newest_steps(view) if step.dataset and step.files]
    if datasets:
        yield "outputs:"
    for dataset in datasets:
        yield f"  penstock files list --dataset {dataset}"
