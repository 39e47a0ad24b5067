"""What a shell offers where only the API knows the names: sites, queues, pilots.

Nothing where it can't be asked at once: whoever presses TAB wants no error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import click
from click.shell_completion import CompletionItem

from pipeline.client import Client
from pipeline.errors import PenstockError
from pipeline.settings_file import load_settings
from schemas.pilot_views import PilotQuery
from schemas.states import PILOT_LIVE, PilotState

PATIENCE = 2.0
"""Seconds that somebody who has pressed TAB waits."""


def sites(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of sites."""
    del ctx, param
    return _offered(lambda client: (CompletionItem(site.name) for site in client.sites().sites), incomplete)


def queues(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of queues, those of the site that was named before."""
    del param
    return _offered(lambda client: _queues(client, ctx.params.get("site")), incomplete)


def labels(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Queues as SITE/QUEUE."""
    del ctx, param
    return _offered(_labels, incomplete)


def pilots(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Ids of pilots, the newest first."""
    del ctx, param
    return _offered(lambda client: _pilots(client, ()), incomplete)


def live_pilots(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Ids of pilots that have not ended."""
    del ctx, param
    return _offered(lambda client: _pilots(client, PILOT_LIVE), incomplete)


def _queues(client: Client, site: str | None) -> Iterator[CompletionItem]:
    names = {queue.name for one in client.sites().sites if site in {None, one.name} for queue in one.queues}
    yield from map(CompletionItem, sorted(names))


def _labels(client: Client) -> Iterator[CompletionItem]:
    for site in client.sites().sites:
        for queue in site.queues:
            yield CompletionItem(f"{site.name}/{queue.name}")


def _pilots(client: Client, states: tuple[PilotState, ...]) -> Iterator[CompletionItem]:
    for pilot in client.pilots(PilotQuery(state=states)).items:
        yield CompletionItem(str(pilot.id), help=f"{pilot.site}/{pilot.queue} {pilot.state}")


def _offered(ask: Callable[[Client], Iterator[CompletionItem]], incomplete: str) -> list[CompletionItem]:
    try:
        settings = load_settings()
        with Client(settings.resolved_api_url(), settings.resolved_token(), tries=1, timeout=PATIENCE) as client:
            return [item for item in ask(client) if item.value.startswith(incomplete)]
    except PenstockError:
        return []
