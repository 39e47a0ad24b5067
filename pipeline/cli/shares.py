"""`penstock shares`: what each group and owner is to get, and what it got."""

from __future__ import annotations

import click

from pipeline.cli.options import example, json_option, pass_settings
from pipeline.cli.output import cells, print_json, show_list
from pipeline.client import open_client
from pipeline.settings import Settings
from schemas.share_views import ShareView

HOUR = 3_600.0
COLUMNS = ("group", "owner", "share", "entitled", "part", "usage", "charged", "settled", "used")


@click.command(epilog=example("penstock shares", "penstock shares --json"))
@json_option
@pass_settings
def shares(settings: Settings, /, *, as_json: bool) -> None:
    """Show what your VO's groups and owners are to get, and got.

    The group that is next in turn comes first, and so do the owners within it. ENTITLED is the part of the VO that
    the shares promise, PART the part of present usage. USAGE fades with a half-life; CHARGED was promised to all jobs
    ever matched, SETTLED is the part of it whose attempts have ended, USED what those took. All four in core-hours;
    --json has core-seconds.
    """
    with open_client(settings) as client:
        view = client.shares()
    if as_json:
        print_json(cells(view))
        return
    show_list([_row(item) for item in view.items], COLUMNS, as_json=False, of="shares: nobody has used anything yet")


def _row(item: ShareView) -> dict[str, object]:
    return {
        "group": item.group,
        "owner": item.owner or "(all)",
        "share": f"{item.share:g}",
        "entitled": f"{item.entitled:.1%}",
        "part": f"{item.part:.1%}",
        "usage": _hours(item.usage),
        "charged": _hours(item.charged),
        "settled": _hours(item.settled),
        "used": _hours(item.used),
    }


def _hours(core_seconds: float) -> str:
    return f"{core_seconds / HOUR:.2f}h"
