"""Cursor pagination: a page's cursor is the id of its last item."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar


class _HasId(Protocol):
    @property
    def id(self) -> int: ...


T = TypeVar("T", bound=_HasId)


def cut(items: Sequence[T], limit: int) -> tuple[tuple[T, ...], int | None]:
    """The page of `limit` items and its cursor; `items` holds one more where there is a next page."""
    page = tuple(items[:limit])
    return page, page[-1].id if len(items) > limit else None
