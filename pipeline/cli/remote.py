"""The way through the API: the client, and lists longer than a page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from pipeline.cli.output import warn
from schemas.api import MAX_PAGE, Page

I_co = TypeVar("I_co", covariant=True)
I = TypeVar("I")  # noqa: E741 - an item
Q = TypeVar("Q", bound=Page)


class ReplyPage(Protocol[I_co]):
    """A page of any list."""

    @property
    def items(self) -> Sequence[I_co]: ...

    @property
    def next(self) -> int | None: ...


def gather(ask: Callable[[Q], ReplyPage[I]], query: Q, limit: int) -> list[I]:
    """Up to `limit` items of a list, page by page; says on stderr when there are more."""
    items: list[I] = []
    after: int | None = query.after
    while after is not None and len(items) < limit:
        size = min(MAX_PAGE, limit - len(items))
        page = ask(query.model_copy(update={"after": after, "limit": size}))
        items += page.items
        after = page.next
    if after is not None:
        warn(f"there are more than {limit}; --limit shows more")
    return items
