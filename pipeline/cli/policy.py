"""`penstock policy`: how a VO divides what it gets, and what it limits itself to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import yaml

from pipeline.cli.differences import show_difference
from pipeline.cli.jobfile import read_model
from pipeline.cli.options import example, json_option, pass_settings
from pipeline.cli.output import cells, moment, print_json
from pipeline.cli.words import printable
from pipeline.client import open_client
from pipeline.settings import Settings
from schemas.policy import Policy


@click.group(epilog=example("penstock policy apply policy.yaml --dry-run", "penstock policy show"))
def policy() -> None:
    """Apply and show your VO's shares and limits."""


@policy.command(epilog=example("penstock policy apply policy.yaml --dry-run", "penstock policy apply policy.yaml"))
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Only tell the difference.")
@json_option
@pass_settings
def apply(settings: Settings, /, *, file: Path, dry_run: bool, as_json: bool) -> None:
    """Declare your VO's shares and limits, as a whole.

    A group or owner that the file does not name has the share 1; a limit that it no longer names is none.
    """
    declared = read_model(file, Policy)
    with open_client(settings) as client:
        diff = client.apply_policy(declared, dry_run=dry_run)
    if as_json:
        print_json(cells(diff))
    else:
        show_difference(diff)


@policy.command(epilog=example("penstock policy show", "penstock policy show --json"))
@json_option
@pass_settings
def show(settings: Settings, /, *, as_json: bool) -> None:
    """Print the policy in force, as a file that `policy apply` takes."""
    with open_client(settings) as client:
        view = client.policy()
    if as_json:
        print_json(cells(view))
        return
    if view.applied_at is None:
        click.echo("# nobody has applied a policy: every group and every owner has the share 1")
    else:
        click.echo(printable(f"# applied by {view.applied_by} at {moment(view.applied_at)} UTC"))
    click.echo(yaml.safe_dump(_as_written(view.policy), sort_keys=False, allow_unicode=True), nl=False)


def _as_written(declared: Policy) -> dict[str, Any]:
    """As a person writes it: nothing that says nothing, whole numbers as such."""
    groups = {
        name: {"share": _number(group.share)}
        | ({"owners": {owner: _number(share) for owner, share in group.owners.items()}} if group.owners else {})
        for name, group in declared.shares.groups.items()
    }
    limits = [limit.model_dump(mode="json", exclude_none=True) for limit in declared.limits]
    return ({"shares": {"groups": groups}} if groups else {}) | ({"limits": limits} if limits else {})


def _number(share: float) -> int | float:
    return int(share) if share.is_integer() else share
