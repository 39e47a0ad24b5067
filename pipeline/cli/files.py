"""`penstock files`: the file catalogue."""

from __future__ import annotations

import click

from pipeline.cli.options import example, json_option, pass_settings
from pipeline.cli.output import cells, show_list
from pipeline.cli.remote import gather
from pipeline.client import open_client
from pipeline.settings import Settings
from schemas.api import FileQuery


@click.group(epilog=example("penstock files list --lfn /default/1/"))
def files() -> None:
    """List files of the catalogue."""


@files.command("list", epilog=example("penstock files list --lfn /default/1/", "penstock files list --json"))
@click.option("--lfn", help="What the logical name begins with.")
@click.option("--dataset", help="Of this dataset.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="At most so many.")
@json_option
@pass_settings
def list_(settings: Settings, /, *, lfn: str | None, dataset: str | None, limit: int, as_json: bool) -> None:
    """List files by id, with where their replicas are."""
    with open_client(settings) as client:
        found = gather(client.files, FileQuery(lfn=lfn, dataset=dataset), limit)
    if as_json:
        show_list(found, (), as_json=True, of="files")
        return
    rows = [
        cells(file) | {"replicas": [f"{replica.storage}:{replica.state}" for replica in file.replicas]}
        for file in found
    ]
    show_list(rows, ("id", "lfn", "size", "adler32", "job_id", "replicas"), as_json=False, of="files")
