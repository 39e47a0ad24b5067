"""`penstock pilots drain` and `kill`: which pilots, are you sure, and what was done."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from pipeline.cli import offered
from pipeline.cli.options import RowId, example, pass_settings
from pipeline.cli.remote import asked
from pipeline.cli.words import counted
from pipeline.client import Client, open_client
from pipeline.errors import BadInput
from pipeline.settings import Settings
from schemas.pilot_views import PilotKill, PilotsChanged, PilotSelection
from schemas.states import PILOT_LIVE

F = TypeVar("F", bound=Callable[..., Any])
S = TypeVar("S", bound=PilotSelection)
_STATES = [state.value for state in PILOT_LIVE]


def _selecting(command: F) -> F:
    """The arguments and options that choose pilots, and how sure one is."""
    for option in (
        click.option("--yes", "is_sure", is_flag=True, help="Do not ask."),
        click.option("--dry-run", is_flag=True, help="Only tell how many."),
        click.option("--reason", help="Why; those who look at the pilots later see it."),
        click.option("--state", "states", multiple=True, type=click.Choice(_STATES), help="In it; may be repeated."),
        click.option("--queue", help="In the site queue of this name.", shell_complete=offered.queues),
        click.option("--site", help="At this site.", shell_complete=offered.sites),
        click.argument("ids", metavar="ID...", nargs=-1, type=RowId(), shell_complete=offered.live_pilots),
    ):
        command = option(command)
    return command


@click.command(
    epilog=example(
        'penstock pilots drain --site CERN --reason "cooling on Friday"', "penstock pilots drain 7 8 --dry-run"
    )
)
@_selecting
@pass_settings
def drain(settings: Settings, /, *, is_sure: bool, **options: Any) -> None:
    """Let pilots end after the jobs that they have.

    Active ones take no more jobs; those that do not run yet are removed. Provisioning goes on: `penstock sites ban`
    lets nothing new come.
    """
    selection = asked(PilotSelection, **_chosen(options))
    with open_client(settings) as client:
        _carry_out(client, client.drain_pilots, selection, is_sure=is_sure)


@click.command(
    epilog=example(
        "penstock pilots kill --site CERN --queue short --state held --yes", "penstock pilots kill 7 --now --dry-run"
    )
)
@_selecting
@click.option("--now", is_flag=True, help="End active ones at once; the jobs that they have start again elsewhere.")
@pass_settings
def kill(settings: Settings, /, *, is_sure: bool, now: bool, **options: Any) -> None:
    """End pilots: after the jobs that they have, or now.

    Without --now it is what `penstock pilots drain` does. With it, their batch systems remove them, and their jobs
    are lost to the infrastructure: they start again, at no cost to their own retries.
    """
    selection = asked(PilotKill, now=now, **_chosen(options))
    with open_client(settings) as client:
        _carry_out(client, client.kill_pilots, selection, is_sure=is_sure)


def _chosen(options: dict[str, Any]) -> dict[str, Any]:
    if not any(options[name] for name in ("ids", "site", "queue", "states")):
        raise click.UsageError("Name pilots by id or by an option.")
    return {"why": options.pop("reason"), **options}


def _carry_out(client: Client, command: Callable[[S], PilotsChanged], selection: S, *, is_sure: bool) -> None:
    """Do it, once somebody has said yes. Raises BadInput where nobody can be asked."""
    if not (is_sure or selection.dry_run):
        if not sys.stdin.isatty():
            raise BadInput("nobody can be asked here whether this is meant: say --yes, or --dry-run to see how many")
        _confirm(command(selection.model_copy(update={"dry_run": True})))
    answer = command(selection)
    click.echo(f"would be {_words(answer)}" if selection.dry_run else _words(answer))
    if not _total(answer):
        click.echo("none of them lives and was not told before", err=True)
    _say_what_comes(client, selection)


def _confirm(foreseen: PilotsChanged) -> None:
    """Let somebody say yes or no to what is foreseen."""
    if _total(foreseen) and not click.confirm(f"{_words(foreseen)}: go on?", err=True):
        click.echo("nothing was done", err=True)
        raise click.exceptions.Exit(1)


def _total(answer: PilotsChanged) -> int:
    return answer.removed + answer.drained + answer.ended


def _words(answer: PilotsChanged) -> str:
    """`5 pilots (3 pending removed, 2 active drained)`."""
    parts = ((answer.removed, "pending removed"), (answer.drained, "active drained"), (answer.ended, "active ended"))
    told = ", ".join(f"{many} {words}" for many, words in parts if many)
    return counted(_total(answer), "pilot") + (f" ({told})" if told else "")


def _say_what_comes(client: Client, selection: PilotSelection) -> None:
    """A site that is emptied and not banned is filled again."""
    if selection.dry_run or selection.site is None:
        return
    banned = any(
        ban.site == selection.site and ban.queue in {None, selection.queue} and ban.only_job_type is None
        for ban in client.sites().bans
    )
    if not banned:
        queue = f" --queue {selection.queue}" if selection.queue else ""
        click.echo(
            f"new ones may come: `penstock sites ban {selection.site}{queue} --reason ...` lets nothing new there",
            err=True,
        )
