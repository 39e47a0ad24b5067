"""The way through the API: what the options ask for, and lists longer than a page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, ValidationError

from pipeline.cli.jobfile import first_complaint
from pipeline.cli.output import warn
from pipeline.cli.words import counted
from pipeline.errors import BadInput
from schemas.api import MAX_PAGE, Changed, Page

I_co = TypeVar("I_co", covariant=True)
I = TypeVar("I")  # noqa: E741 - an item
Q = TypeVar("Q", bound=Page)
M = TypeVar("M", bound=BaseModel)


class ReplyPage(Protocol[I_co]):
    """A page of any list."""

    @property
    def items(self) -> Sequence[I_co]: ...

    @property
    def next(self) -> int | None: ...


def asked(model: type[M], **values: Any) -> M:
    """What a command's options and arguments ask of the API. Raises BadInput that names the field and the reason."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise BadInput(first_complaint(error)) from error


def what_changed(answer: Changed) -> list[str]:
    """What a command did to jobs, in words; nothing when it did nothing."""
    now = [f"{counted(answer.changed, 'job')} changed"] if answer.changed else []
    later = [f"{counted(answer.requested, 'job')} to end once the pilot confirms"] if answer.requested else []
    return now + later


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
