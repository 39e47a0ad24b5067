"""`penstock submit`: a job file and the local files that it names become a campaign."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.cli.campaign_page import advice
from pipeline.cli.jobfile import read_model
from pipeline.cli.options import example, json_option, pass_settings
from pipeline.cli.output import cells, print_json, warn
from pipeline.cli.packing import pack_sandboxes
from pipeline.cli.progress import wait_for_campaign
from pipeline.cli.words import counted, printable
from pipeline.client import Client, open_client
from pipeline.settings import Settings
from pipeline.traces import ids
from schemas.campaign import Campaign
from schemas.states import CampaignState


@click.command(epilog=example("penstock submit campaign.yaml", "penstock submit --wait campaign.yaml"))
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--wait", is_flag=True, help="Show the progress until the end; exit code 1 unless all went well.")
@click.option(
    "--traceparent",
    envvar="TRACEPARENT",
    show_envvar=True,
    help="What the traces of its jobs are linked to: a span of yours, in W3C's form.",
)
@json_option
@pass_settings
def submit(settings: Settings, *, file: Path, wait: bool, traceparent: str | None, as_json: bool) -> None:
    """Submit a campaign from a job file.

    The file is YAML or JSON. Local files under `sandbox` are uploaded once, whatever number of jobs reads
    them. Nothing is stored when anything is wrong.
    """
    campaign = read_model(file, Campaign)
    sandboxes = pack_sandboxes(file, campaign, settings.sandbox_limit)
    caller = ids.traceparent(traceparent)
    if traceparent and caller is None:
        warn(f"{printable(traceparent)!r} is no traceparent: the traces of these jobs are linked to nothing")
    with open_client(settings) as client:
        digests = {step: client.upload_sandbox(content) for step, content in sandboxes.items()}
        reply = client.submit(campaign, digests, traceparent=caller)
        if not as_json:
            click.echo(f"campaign {reply.campaign_id}: {printable(reply.name)}, {counted(reply.jobs, 'job')}")
        elif not wait:
            print_json(cells(reply))
        for warning in reply.warnings:
            warn(warning)
        if wait:
            _wait(client, reply.campaign_id, as_json=as_json)


def _wait(client: Client, campaign_id: int, *, as_json: bool) -> None:
    try:
        view = wait_for_campaign(client, campaign_id)
    except KeyboardInterrupt:
        click.echo(f"campaign {campaign_id} goes on; `penstock campaigns show {campaign_id}` tells of it", err=True)
        raise
    if as_json:
        print_json(cells(view))
    else:
        click.echo(f"campaign {campaign_id}: {view.state}")
    for line in advice(view):
        click.echo(line, err=True)
    if view.state is not CampaignState.DONE:
        raise click.exceptions.Exit(1)
