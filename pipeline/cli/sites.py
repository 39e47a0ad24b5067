"""`penstock sites`: where jobs may run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from pipeline.cli.differences import show_difference
from pipeline.cli.jobfile import read_model
from pipeline.cli.options import Moment, example, json_option, pass_settings
from pipeline.cli.output import cells, print_json, show_list, show_table, show_title
from pipeline.cli.remote import asked
from pipeline.client import open_client
from pipeline.errors import BadInput
from pipeline.settings import Settings
from schemas.site_views import AllowRequest, BanRequest, BanView, CapsView, OnlyRequest, SitesView
from schemas.sites import SitesFile

_CAPS = ("max_pilots", "max_pending_pilots", "max_held_pilots", "max_submissions")

queue_option = click.option("--queue", help="Only this queue of the site.")
reason_option = click.option("--reason", required=True, help="Why; all of your VO see it.")
until_option = click.option(
    "--until", type=Moment(), help="Until this time (ISO 8601, UTC) or for this long (2h, 7d); left out: until allowed."
)
vo_option = click.option("--vo", help="For this VO, which must be your token's, as it is when left out.")


@click.group(epilog=example("penstock sites apply sites.yaml --dry-run", "penstock sites list"))
def sites() -> None:
    """Apply the sites file; list, ban, test and allow sites."""


@sites.command(epilog=example("penstock sites apply sites.yaml --dry-run", "penstock sites apply sites.yaml"))
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Only tell the difference.")
@json_option
@pass_settings
def apply(settings: Settings, /, *, file: Path, dry_run: bool, as_json: bool) -> None:
    """Declare sites, their queues and storages, as a whole.

    What the file no longer names gets nothing new. Bans stay as they are. The file is the whole installation's: any
    VO's operator may apply it, for all VOs.
    """
    declared = read_model(file, SitesFile)
    with open_client(settings) as client:
        diff = client.apply_sites(declared, dry_run=dry_run)
    if as_json:
        print_json(cells(diff))
    else:
        show_difference(diff)


@sites.command("list", epilog=example("penstock sites list", "penstock sites list --json"))
@json_option
@pass_settings
def list_(settings: Settings, /, *, as_json: bool) -> None:
    """List the queues of all sites, with your VO's pilots, limits over several queues, and the bans in force."""
    with open_client(settings) as client:
        view = client.sites()
    if as_json:
        print_json(cells(view))
        return
    rows = [
        cells(queue) | {"site": site.name, "queue": queue.name, "state": _state(view, site.name, queue.name)}
        for site in view.sites
        for queue in site.queues
    ]
    columns = ("site", "queue", "state", "batch_system", "cores", "memory", "max_pilots", "pilots", "reason")
    show_list(rows, columns, as_json=False, of="sites; `penstock sites apply` declares them")
    if view.pilot_caps:
        show_title("limits of pilots over several queues")
        show_table([_caps_row(caps) for caps in view.pilot_caps], ("over", *_CAPS, "queues"))
    if view.bans:
        show_title("bans")
    for ban in view.bans:
        until = f"until {ban.until:%Y-%m-%d %H:%M} UTC" if ban.until else "until allowed"
        click.echo(f"{_scope(ban)}, by {ban.banned_by}, {until}: {ban.why}")


@sites.command(
    epilog=example(
        'penstock sites ban CERN --reason "cooling" --until 6h',
        "penstock sites ban CERN --queue long --reason downtime",
    )
)
@click.argument("site")
@reason_option
@until_option
@queue_option
@vo_option
@pass_settings
def ban(
    settings: Settings, /, *, site: str, reason: str, until: datetime | timedelta | None, **scope: str | None
) -> None:
    """Let nothing new of your VO go to a site; what runs there goes on."""
    request = asked(BanRequest, why=reason, until=_moment(until), **scope)
    with open_client(settings) as client:
        click.echo(_scope(client.ban_site(site, request)))


@sites.command(
    epilog=example(
        'penstock sites test CERN --reason "new storage"',
        "penstock sites test CERN --queue long --job-type Pilot --reason downtime --until 2h",
    )
)
@click.argument("site")
@click.option("--job-type", default="test", show_default=True, help="The one type of jobs that may go there.")
@reason_option
@until_option
@queue_option
@vo_option
@pass_settings
def test(settings: Settings, /, *, site: str, job_type: str, **given: Any) -> None:
    """Let only test jobs of your VO go to a site, until it is allowed again; what runs there goes on.

    Pilots are submitted for such jobs alone. Where the site is banned as well, the ban wins.
    """
    reason, until = given.pop("reason"), _moment(given.pop("until"))
    request = asked(OnlyRequest, why=reason, until=until, job_type=job_type, **given)
    with open_client(settings) as client:
        click.echo(_scope(client.test_site(site, request)))


@sites.command(epilog=example("penstock sites allow CERN", "penstock sites allow CERN --queue long"))
@click.argument("site")
@queue_option
@vo_option
@pass_settings
def allow(settings: Settings, /, *, site: str, queue: str | None, vo: str | None) -> None:
    """Lift your VO's bans and test modes of a site or of one of its queues."""
    with open_client(settings) as client:
        done = client.allow_site(site, asked(AllowRequest, queue=queue, vo=vo))
    for lifted in done.lifted:
        click.echo(f"{_scope(lifted)}, lifted")
    if not done.lifted:
        click.echo("there was no ban of your VO's")


def _moment(until: datetime | timedelta | None) -> datetime | None:
    moment = datetime.now(UTC) + until if isinstance(until, timedelta) else until
    if moment is not None and moment <= datetime.now(UTC):
        raise BadInput(f"--until: {moment:%Y-%m-%d %H:%M:%S} UTC is past; a ban ends in the future")
    return moment


def _scope(ban: BanView) -> str:
    kind = "ban" if ban.only_job_type is None else "test mode"
    place = ban.site if ban.queue is None else f"{ban.site}/{ban.queue}"
    passing = "" if ban.only_job_type is None else f", only jobs of the type {ban.only_job_type}"
    return f"{kind} {ban.id}: {place} for {ban.vo or 'everybody'}{passing}"


def _caps_row(caps: CapsView) -> dict[str, Any]:
    """What they limit, a number each; a limit that is not set is left empty."""
    kinds = {
        "all": "everything",
        "vo": f"VO {caps.name}",
        "site": f"site {caps.name}",
        "meta": f"meta-site {caps.name}",
    }
    return {"over": kinds[caps.kind], "queues": caps.queues, **{name: getattr(caps, name) for name in _CAPS}}


def _state(view: SitesView, site: str, queue: str) -> str:
    here = {ban.only_job_type for ban in view.bans if ban.site == site and ban.queue in (None, queue)}
    if here:
        return "banned" if None in here else "test mode"
    declared = {one.name: one for entry in view.sites if entry.name == site for one in entry.queues}
    return "open" if declared[queue].declared else "closed"
