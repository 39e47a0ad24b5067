"""Waiting for a campaign: live bars on a terminal, a line per change elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from pipeline.cli.output import warn
from pipeline.client import Client
from pipeline.errors import ApiUnavailable, DatabaseUnavailable
from schemas.api import CampaignView, StepView
from schemas.states import JOB_FINAL, CampaignState, JobState, StepState

V = TypeVar("V")

LOOK = 1.0
"""Seconds between two looks at the campaign."""
PATIENCE = 600.0
"""Seconds of an API or a database that can't be reached: jobs run on without it, so waiting does too."""
ENDED = frozenset({CampaignState.DONE, CampaignState.BLOCKED, CampaignState.CANCELLED})


class Display(Protocol):
    """Shows a campaign each time somebody has looked."""

    def show(self, view: CampaignView) -> None: ...


def wait_for_campaign(client: Client, campaign_id: int) -> CampaignView:
    """Show its progress until the campaign is done, blocked or cancelled; how it ended. Raises ApiUnavailable."""
    with _display() as display:
        while True:
            view = patiently(lambda: client.campaign(campaign_id), "the campaign")
            display.show(view)
            if view.state in ENDED:
                return view
            time.sleep(LOOK)


def newest_steps(view: CampaignView) -> list[StepView]:
    """The steps in order, each in its newest version."""
    newest: dict[str, StepView] = {}
    for step in view.steps:
        if step.name not in newest or step.version > newest[step.name].version:
            newest[step.name] = step
    return list(newest.values())


class Lines:
    """A line for each step whose numbers have changed."""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}

    def show(self, view: CampaignView) -> None:
        for step in newest_steps(view):
            line = f"{step.name}: {step.state}, {step_counts(step)}"
            if self._said.get(step.name) != line:
                self._said[step.name] = line
                click.echo(line, err=True)


class Bars:
    """A bar for each step."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def show(self, view: CampaignView) -> None:
        for step in newest_steps(view):
            if step.name not in self._tasks:
                self._tasks[step.name] = self._progress.add_task(step.name, counts="", total=None)
            counts = ("blocked: " if step.state is StepState.BLOCKED else "") + step_counts(step)
            ended = sum(count for state, count in step.jobs.items() if state in JOB_FINAL)
            self._progress.update(
                self._tasks[step.name],
                total=sum(step.jobs.values()) or None,
                completed=ended,
                counts=counts,
            )


@contextmanager
def _display() -> Iterator[Display]:
    if not sys.stderr.isatty():
        yield Lines()
        return
    with bars() as progress:
        yield Bars(progress)


@contextmanager
def bars() -> Iterator[Progress]:
    """Room for live bars on a terminal; each has a description and `counts` in words."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[counts]}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield progress


def step_counts(step: StepView) -> str:
    """`20/24 done, 3 running, 1 failed`."""
    done = step.jobs.get(JobState.DONE, 0)
    others = [f"{count} {state}" for state, count in step.jobs.items() if state is not JobState.DONE and count]
    return ", ".join([f"{done}/{sum(step.jobs.values())} done", *others])


def patiently(look: Callable[[], V], what: str) -> V:
    """The answer of `look`, asked again while the API or the database can't be reached: `what` goes on without it."""
    since = time.monotonic()
    while True:
        try:
            return look()
        except (ApiUnavailable, DatabaseUnavailable) as error:
            if time.monotonic() - since > PATIENCE:
                raise
            waited_for = "API" if isinstance(error, ApiUnavailable) else "database"
            warn(f"{error}; {what} goes on, waiting for the {waited_for}")
            time.sleep(LOOK)
