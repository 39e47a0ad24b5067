"""What operators drain, what is left of it and why, and the commands on it."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import Field, model_validator

from schemas.api import Next, Page
from schemas.bounds import Count, RowId, Seconds
from schemas.campaign import Model
from schemas.names import Name


class DrainKind(StrEnum):
    """What is drained: a process, a queue's consumers of the moment, a site, a VO everywhere, or all sites."""

    INSTANCE = "instance"
    QUEUE = "queue"
    SITE = "site"
    VO = "vo"
    ALL = "all"


OF_PROCESSES = frozenset({DrainKind.INSTANCE, DrainKind.QUEUE})
"""Those that wishes carry out, which processes read; the others are carried out by bans and by pilots' orders."""


class DrainState(StrEnum):
    """How far a drain is. `drained` is latched: nothing was left at `drained_at`, whatever has come since."""

    DRAINING = "draining"
    OVERDUE = "overdue"
    DRAINED = "drained"
    LIFTED = "lifted"


class Thing(StrEnum):
    """What there is to be left."""

    JOBS = "jobs"
    PILOTS = "pilots"
    MESSAGES = "messages"
    PROCESSES = "processes"


class DrainLine(Model):
    """So many things that are left for one reason."""

    what: Thing
    count: Count
    state: str | None = Field(default=None, description="of the jobs, the pilots or the process")
    site: str | None = None
    vo: str | None = None
    queue: str | None = Field(default=None, description="a message queue's name")
    instance: str | None = None
    why: str = Field(description="why they are left")
    seconds_left: float | None = Field(
        default=None, description="how long the last of them may still take, by its wall time; null: nobody knows"
    )
    holds: bool = Field(
        default=True, description="whether the drain waits for them; what it does not is told all the same"
    )


class DrainView(Model):
    """A drain as lists show it."""

    id: RowId
    kind: DrainKind
    target: str = Field(description="the name of what is drained; of the kind `all`, `everything`")
    vo: str | None = Field(description="the VO that it is for; null: everybody")
    state: DrainState
    by: str
    why: str
    started_at: datetime
    deadline_at: datetime | None
    kills: bool = Field(description="whether what is left at the deadline is killed")
    drained_at: datetime | None = Field(description="when nothing was left")
    lifted_at: datetime | None
    lifted_by: str | None

    @property
    def label(self) -> str:
        """What is drained, in words: `matching`, `site CERN`, `site CERN for zmumu`, `VO zmumu`, `everything`."""
        if self.kind is DrainKind.SITE:
            return f"site {self.target}" + (f" for {self.vo}" if self.vo else "")
        return f"VO {self.target}" if self.kind is DrainKind.VO else self.target


class DrainReport(DrainView):
    """A drain, and all that is left of what it drains; over the API, as far as it is the caller's VO's."""

    left: tuple[DrainLine, ...]

    @property
    def holding(self) -> tuple[DrainLine, ...]:
        """What the drain waits for."""
        return tuple(line for line in self.left if line.holds)


class DrainQuery(Page):
    """GET /v1/drains."""

    lifted: bool = Field(default=False, description="those that are over, too")


class DrainPage(Model):
    """Drains, the newest first."""

    items: tuple[DrainView, ...]
    next: Next = None


class DrainScope(Model):
    """What an operator drains or lifts: his VO at one site, or everywhere."""

    site: Name | None = Field(default=None, description="null: everywhere")
    vo: Name | None = Field(default=None, description="the caller's own; another is refused")


class DrainRequest(DrainScope):
    """POST /v1/drains. Where it is drained already, that drain goes on, with the deadline and the reason that are given
    now; one that kills at its deadline still does."""

    why: Annotated[str, Field(max_length=300)] = ""
    deadline: Seconds | None = Field(default=None, description="seconds from now; null: none")
    kill: bool = Field(default=False, description="kill what is left at the deadline")

    @model_validator(mode="after")
    def _kills_at_a_deadline(self) -> DrainRequest:
        if self.kill and self.deadline is None:
            raise ValueError("to kill what is left takes a deadline")
        return self


class DrainLifted(Model):
    """The drain that was lifted, null where there was none."""

    lifted: DrainView | None
