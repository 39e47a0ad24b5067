"""`penstock drain`, `drains`, `undrain`: empty something, see what is left of it and why, take it back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from pipeline.cli import offered
from pipeline.cli.drain_progress import wait_for_drain
from pipeline.cli.drain_ways import Chosen, Way, opened_way
from pipeline.cli.options import Duration, RowId, example, json_option, pass_settings
from pipeline.cli.output import cells, print_json, show_fields, show_list, show_table, show_title
from pipeline.cli.remote import asked
from pipeline.settings import Settings
from schemas.drain_views import DrainReport, DrainRequest, DrainState

F = TypeVar("F", bound=Callable[..., Any])
_LEFT = ("what", "count", "state", "site", "vo", "queue", "instance", "holds", "seconds_left", "why")


def _choosing(command: F) -> F:
    """The argument and the options that say what is meant."""
    for option in (
        click.option("--all", "everything", is_flag=True, help="All sites, for everybody."),
        click.option("--vo", help="Your VO, everywhere or at --site: through the API, with your token."),
        click.option(
            "--site", help="This site, for everybody unless --vo says otherwise.", shell_complete=offered.sites
        ),
        click.argument("target", metavar="[INSTANCE|QUEUE]", required=False),
    ):
        command = option(command)
    return command


@click.command(
    epilog=example(
        "penstock drain optimisation",
        "penstock drain $(penstock instances --json | jq -r .[0].id) --wait",
        'penstock drain --site CERN --reason "new switches" --deadline 6h --wait',
        "penstock drain --site CERN --vo zmumu --deadline 2h --kill",
    )
)
@_choosing
@click.option("--reason", "why", default="", help="Why; those who look at it see it.")
@click.option("--deadline", type=Duration(), help="It is overdue after so long (30m, 6h); left out: never.")
@click.option("--kill", is_flag=True, help="Kill the pilots that are left at the deadline; their jobs start again.")
@click.option(
    "--wait",
    is_flag=True,
    help="Show the progress; exit code 0 when nothing is left, 1 at the deadline (with --kill ten minutes after it) or "
    "when the drain is lifted.",
)
@json_option
@pass_settings
def drain(settings: Settings, /, *, wait: bool, as_json: bool, **given: Any) -> None:
    """End processes, or empty a site, a VO or everything, after their work.

    An instance, or the consumers of a queue that run now, stop receiving within 2 seconds, finish what is in flight
    and end; consumers started later serve the queue. At a site, or for a VO, nothing new begins: jobs wait or are
    held, pilots take no more jobs and end, pending ones are taken back. It lasts until `penstock undrain`.

    What concerns everybody is written to the database, and works while the API is down. Repeated, it follows the
    drain that is there.
    """
    wanted = asked(DrainRequest, **{name: given.pop(name) for name in ("why", "deadline", "kill")})
    chosen = _chosen(given)
    with opened_way(settings, chosen.vo) as way:
        report = way.start(chosen, wanted)
        if wait:
            report = _wait(way, report, chosen)
    if as_json:
        print_json(cells(report))
    else:
        click.echo(_heading(report))
        if report.left:
            show_table([cells(line) for line in report.left], _LEFT)
    if wait and report.state is not DrainState.DRAINED:
        raise click.exceptions.Exit(1)


@click.command(epilog=example("penstock undrain --site CERN", "penstock undrain matching", "penstock undrain --all"))
@_choosing
@pass_settings
def undrain(settings: Settings, /, **named: Any) -> None:
    """Take a drain back, with its own bans and nobody else's.

    Jobs that were held for it are looked at again. Pilots that were told to end do, and new ones come.
    """
    chosen = _chosen(named)
    with opened_way(settings, chosen.vo) as way:
        lifted = way.lift(chosen)
    click.echo(f"{chosen.words()}: was not drained" if lifted is None else _heading(lifted))


@click.command(epilog=example("penstock drains", "penstock drains 1", "penstock drains --lifted --json"))
@click.argument("drain_id", metavar="[ID]", type=RowId(), required=False)
@click.option("--lifted", is_flag=True, help="List those that are over, too.")
@click.option("--vo", help="As your VO sees it: through the API, with your token.")
@json_option
@pass_settings
def drains(settings: Settings, /, *, drain_id: int | None, lifted: bool, vo: str | None, as_json: bool) -> None:
    """List drains, or show what is left of one, and why.

    STATE is draining, overdue (its deadline has passed), drained (nothing was left, whatever has come since) or
    lifted. Lines that do not HOLD are told, and not waited for.
    """
    with opened_way(settings, vo) as way:
        if drain_id is not None:
            _show(way.look(drain_id), as_json=as_json)
            return
        found = way.list(lifted=lifted)
    rows = [cells(one) if as_json else one.model_dump() | {"drain": one.label} for one in found]
    show_list(rows, ("id", "drain", "state", "by", "started_at", "deadline_at", "why"), as_json=as_json, of="drains")


def _chosen(named: dict[str, Any]) -> Chosen:
    chosen = Chosen(**named)
    if sum((chosen.target is not None, bool(chosen.site or chosen.vo), chosen.everything)) != 1:
        raise click.UsageError("Name one thing: an instance or a queue, or --site, --vo, both of them, or --all.")
    return chosen


def _wait(way: Way, report: DrainReport, chosen: Chosen) -> DrainReport:
    vo = f" --vo {chosen.vo}" if chosen.vo else ""
    try:
        return wait_for_drain(way.look, report)
    except KeyboardInterrupt:
        click.echo(
            f"the drain goes on; `penstock drains {report.id}{vo}` tells of it, `penstock undrain {chosen.words()}` "
            "takes it back",
            err=True,
        )
        raise


def _heading(view: Any) -> str:
    words = {DrainState.OVERDUE: "overdue", DrainState.LIFTED: f"drain lifted by {view.lifted_by}"}
    return f"{view.label}: {words.get(view.state, view.state.value)} (drain {view.id})"


def _show(report: DrainReport, *, as_json: bool) -> None:
    if as_json:
        print_json(cells(report))
        return
    shown = report.model_dump(exclude={"left", "target", "vo"})
    show_fields({"id": report.id, "drain": report.label, **shown})
    if report.left:
        show_title("left")
        show_table([cells(line) for line in report.left], _LEFT)
