"""`penstock match`: what a node would get now."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.cli.jobfile import read_model
from pipeline.cli.options import example, json_option, pass_settings
from pipeline.cli.output import cells, print_json, show_table, show_title, warn
from pipeline.cli.remote import asked
from pipeline.cli.words import counted
from pipeline.client import open_client
from pipeline.settings import Settings
from schemas.match_views import MOST_JOBS, MatchedView, MatchRequest, MatchView
from schemas.requirements import Resource

MATCHED = (
    "jobs", "first_job", "campaign", "step", "group", "owner", "job_type", "priority", "cores", "memory", "gpus", "by",
)  # fmt: skip
PASSED = ("group", "owner", "job_type", "priority", "first_job", "reason")
UNFIT = ("kinds", "first_job", "reason")


@click.command(epilog=example("penstock match --resource node.yaml", "penstock match --resource node.yaml --json"))
@click.option(
    "--resource",
    required=True,
    type=click.Path(path_type=Path),
    help="What the node has, in YAML or JSON: site, cores, memory, disk, wall_time, and what else it says.",
)
@click.option("--jobs", type=click.IntRange(1, MOST_JOBS), default=100, show_default=True, help="At most so many.")
@json_option
@pass_settings
def match(settings: Settings, /, *, resource: Path, jobs: int, as_json: bool) -> None:
    """Show what a node would get now; nothing is assigned.

    The jobs of your VO in the order in which an empty node would get them, then the kinds of jobs that suit it and are
    passed over, and the reasons for which others do not suit it.
    """
    request = asked(MatchRequest, resource=read_model(resource, Resource), jobs=jobs)
    with open_client(settings) as client:
        view = client.match(request)
    if as_json:
        print_json(cells(view))
        return
    for warning in view.warnings:
        warn(warning)
    _show(view)


def _show(view: MatchView) -> None:
    click.echo(
        click.style(f"{counted(view.jobs, 'job')} for an empty node at {view.site}", bold=True)
        + (f", on {counted(view.cores, 'core')}" if view.jobs else "")
    )
    if not (view.matched or view.passed or view.unfit):
        click.echo("  no job of your VO waits")
    if view.matched:
        show_table([_row(one) for one in view.matched], MATCHED)
    if view.passed:
        show_title("passed over")
        show_table([one.model_dump() for one in view.passed], PASSED)
    if view.unfit:
        show_title("do not suit it (a kind may have several reasons)")
        show_table([one.model_dump() for one in view.unfit], UNFIT)


def _row(one: MatchedView) -> dict[str, object]:
    alternative = None if one.alternative is None else f"any_of[{one.alternative}]"
    return one.model_dump() | {"campaign": one.campaign_id, "by": alternative}
