"""`penstock campaigns`: what was submitted, and the commands on it."""

from __future__ import annotations

from typing import Any

import click

from pipeline.cli.campaign_page import show_campaign
from pipeline.cli.options import RowId, example, json_option, pass_settings
from pipeline.cli.output import cells, print_json, show_list
from pipeline.cli.progress import newest_steps
from pipeline.cli.remote import gather, what_changed
from pipeline.client import open_client
from pipeline.errors import BadInput
from pipeline.settings import Settings
from schemas.api import CampaignQuery, Commanded
from schemas.states import CampaignState, StepState

campaign_id_argument = click.argument("campaign_id", metavar="ID", type=RowId())


@click.group(epilog=example("penstock campaigns list", "penstock campaigns show 1"))
def campaigns() -> None:
    """List, show, pause, resume, cancel, retry, accept."""


@campaigns.command("list", epilog=example("penstock campaigns list --state running", "penstock campaigns list --json"))
@click.option("--state", multiple=True, type=click.Choice([state.value for state in CampaignState]), help="In it.")
@click.option("--name", help="Of this name.")
@click.option("--owner", help="Submitted by this subject.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="At most so many.")
@json_option
@pass_settings
def list_(settings: Settings, /, *, limit: int, as_json: bool, **options: Any) -> None:
    """List campaigns, the newest first."""
    query = CampaignQuery(state=options["state"], name=options["name"], owner=options["owner"])
    with open_client(settings) as client:
        found = gather(client.campaigns, query, limit)
    show_list(found, ("id", "name", "state", "owner", "created_at", "ended_at"), as_json=as_json, of="campaigns")


@campaigns.command(epilog=example("penstock campaigns show 1", "penstock campaigns show 1 --json"))
@campaign_id_argument
@json_option
@pass_settings
def show(settings: Settings, /, *, campaign_id: int, as_json: bool) -> None:
    """Show a campaign: its steps, what keeps it from going on, where its outputs are."""
    with open_client(settings) as client:
        view = client.campaign(campaign_id)
        if as_json:
            print_json(cells(view))
        else:
            show_campaign(client, view)


@campaigns.command(epilog=example("penstock campaigns pause 1"))
@campaign_id_argument
@pass_settings
def pause(settings: Settings, /, *, campaign_id: int) -> None:
    """Let nothing more of a campaign start; what runs goes on."""
    _command(settings, campaign_id, "pause")


@campaigns.command(epilog=example("penstock campaigns resume 1"))
@campaign_id_argument
@pass_settings
def resume(settings: Settings, /, *, campaign_id: int) -> None:
    """Let a paused campaign go on."""
    _command(settings, campaign_id, "resume")


@campaigns.command(epilog=example("penstock campaigns cancel 1"))
@campaign_id_argument
@pass_settings
def cancel(settings: Settings, /, *, campaign_id: int) -> None:
    """End a campaign and kill its jobs."""
    _command(settings, campaign_id, "cancel")


@campaigns.command(epilog=example("penstock campaigns retry 1 --failed"))
@campaign_id_argument
@click.option("--failed", is_flag=True, help="The failed jobs; there is no other kind to retry, so it may be left out.")
@pass_settings
def retry(settings: Settings, /, *, campaign_id: int, failed: bool) -> None:
    """Let a campaign's failed jobs start again, their retry budgets fresh."""
    del failed
    with open_client(settings) as client:
        answer = client.command(campaign_id, "retry")
    _say(answer)
    if not answer.changed:
        click.echo("no job was failed, so none starts again", err=True)


@campaigns.command(epilog=example("penstock campaigns accept 1", "penstock campaigns accept 1 analyse"))
@campaign_id_argument
@click.argument("step", required=False)
@pass_settings
def accept(settings: Settings, /, *, campaign_id: int, step: str | None) -> None:
    """Close a blocked step as it is, so that later steps start.

    STEP may be left out where only one is blocked.
    """
    with open_client(settings) as client:
        if step is None:
            view = client.campaign(campaign_id)
            blocked = [one.name for one in newest_steps(view) if one.state is StepState.BLOCKED]
            if not blocked:
                raise BadInput(f"campaign {campaign_id} has no blocked step: there is nothing to accept")
            if len(blocked) > 1:
                raise BadInput(f"campaign {campaign_id} has several blocked steps; name one: {', '.join(blocked)}")
            step = blocked[0]
        _say(client.accept(campaign_id, step))


def _command(settings: Settings, campaign_id: int, word: str) -> None:
    with open_client(settings) as client:
        _say(client.command(campaign_id, word))


def _say(answer: Commanded) -> None:
    click.echo(", ".join([f"campaign {answer.campaign_id}: {answer.state}", *what_changed(answer)]))
