"""`penstock limits`: how many jobs may run, how many do."""

from __future__ import annotations

import click

from pipeline.cli.options import example, json_option, pass_settings
from pipeline.cli.output import cells, print_json, show_list
from pipeline.client import open_client
from pipeline.settings import Settings
from schemas.share_views import LimitView

COLUMNS = ("name", "kind", "about", "maximum", "running", "free", "per")


@click.command(epilog=example("penstock limits", "penstock limits --json"))
@json_option
@pass_settings
def limits(settings: Settings, /, *, as_json: bool) -> None:
    """Show every limit that concerns your VO, and how full it is.

    Sites' limits count the jobs of all VOs, the rules of `penstock policy` those of your own. A start rate counts
    what has started lately.
    """
    with open_client(settings) as client:
        view = client.limits()
    if as_json:
        print_json(cells(view))
        return
    show_list([limit_row(item) for item in view.items], COLUMNS, as_json=False, of="limits")


def limit_row(item: LimitView) -> dict[str, object]:
    """A limit as tables show it."""
    return {
        "name": item.name,
        "kind": item.kind.replace("_", " "),
        "about": about(item),
        "maximum": item.maximum,
        "running": item.running,
        "free": item.free,
        "per": None if item.seconds is None else f"{item.seconds:g}s",
    }


def about(item: LimitView) -> str:
    """Which jobs a limit is about, such as `job_type=Merge site=CERN`."""
    words = ("site", "group", "owner", "job_type", "label")
    return " ".join(f"{word}={value}" for word in words if (value := getattr(item, word)) is not None)
