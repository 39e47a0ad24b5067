"""Messages: wake-up calls that name ids and never carry state.

A body class is the contract of one message type. It says on which queue it travels and to which
kind of row its ids belong; `split` lets the runtime bisect a message down to one poisonous id.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, ClassVar, Self
from uuid import UUID

import uuid_utils.compat
from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    SerializeAsAny,
    ValidationInfo,
    field_validator,
    model_validator,
)

from schemas.states import JobState

MAX_IDS = 1_000
MAX_BYTES = 1 << 20
_QUEUE_NAME = re.compile(r"[A-Za-z0-9_.-]{1,63}")
_ALWAYS_SENT = frozenset({"id", "attempt"})
"""Fields that a new message gets by default, and that one which has travelled must say itself."""

Ids = Annotated[tuple[PositiveInt, ...], Field(min_length=1, max_length=MAX_IDS)]
TraceParent = Annotated[str, Field(pattern=r"^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")]


class Body(BaseModel):
    """The typed content of a message; subclasses set `queue`, and `rows` when they name ids."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    queue: ClassVar[str]
    version: ClassVar[int] = 1
    rows: ClassVar[str | None] = None
    """The table whose rows the ids name: jobs, steps, files, slots, autoclusters, site_queues."""
    in_state: ClassVar[str | None] = None
    """The state in which a row is this message's business; None: in any."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """A queue's name must mean the same to every broker: some have separators and wildcards in it."""
        queue = getattr(cls, "queue", None)
        if queue is not None and not _QUEUE_NAME.fullmatch(queue):
            raise ValueError(
                f"{cls.__name__}.queue: {queue!r} is no name of a queue; use 1 to 63 letters, digits, '-', '_' and '.'"
            )

    @classmethod
    def type_name(cls) -> str:
        """The name on the wire."""
        return cls.__name__

    def ids(self) -> tuple[int, ...]:
        """The ids that the body names; empty for a body that names none."""
        return ()

    def with_ids(self, ids: Sequence[int]) -> Self:
        """The same body about other ids."""
        raise ValueError(f"{self.type_name()} names no ids, so it can't be about {len(ids)}")


class IdsBody(Body):
    """A body whose single field is a tuple of row ids."""

    def ids(self) -> tuple[int, ...]:
        (name,) = type(self).model_fields
        return tuple(getattr(self, name))

    def with_ids(self, ids: Sequence[int]) -> Self:
        (name,) = type(self).model_fields
        return type(self).model_validate({name: tuple(ids)})


class JobsReceived(IdsBody):
    """Jobs in `received` are to go through the optimiser chain."""

    queue: ClassVar[str] = "optimisation"
    rows: ClassVar[str | None] = "jobs"
    in_state: ClassVar[str | None] = JobState.RECEIVED
    job_ids: Ids


class SlotsOffered(IdsBody):
    """Pilots have free slots that want jobs."""

    queue: ClassVar[str] = "matching"
    rows: ClassVar[str | None] = "slots"
    pilot_ids: Ids


class JobsWaiting(IdsBody):
    """Autoclusters have waiting jobs that parked slots may take."""

    queue: ClassVar[str] = "matching"
    rows: ClassVar[str | None] = "autoclusters"
    autocluster_ids: Ids


class ProvisioningDue(Body):
    """Pilots are to be planned for this cycle, once."""

    queue: ClassVar[str] = "pilots"
    cycle: PositiveInt


class SiteQueuesDue(IdsBody):
    """Site queues are to be polled, cleaned and submitted to."""

    queue: ClassVar[str] = "pilots"
    rows: ClassVar[str | None] = "site_queues"
    site_queue_ids: Ids


class OutputsReported(IdsBody):
    """Jobs in `completing` have outputs to verify and register."""

    queue: ClassVar[str] = "data"
    rows: ClassVar[str | None] = "jobs"
    in_state: ClassVar[str | None] = JobState.COMPLETING
    job_ids: Ids


class StepsDue(IdsBody):
    """Steps may have ended, or may be released."""

    queue: ClassVar[str] = "data"
    rows: ClassVar[str | None] = "steps"
    step_ids: Ids


class FilesDue(IdsBody):
    """Files of the catalogue are to be compared with their storages."""

    queue: ClassVar[str] = "data"
    rows: ClassVar[str | None] = "files"
    file_ids: Ids


class Tick(Body):
    """A trigger's clock struck: `name` was due at `scheduled_for`."""

    queue: ClassVar[str] = "upkeep"
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
    scheduled_for: AwareDatetime


class Message(BaseModel):
    """One message as it travels: an envelope around a body. Frozen; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: UUID = Field(default_factory=uuid_utils.compat.uuid7)
    type: str
    version: PositiveInt
    created_at: AwareDatetime
    attempt: PositiveInt = 1
    trace: TraceParent | None = None
    body: SerializeAsAny[Body]

    @field_validator("body", mode="before")
    @classmethod
    def _body_by_its_type(cls, body: Any, info: ValidationInfo) -> Any:
        """On `decode`, which gives the bodies by type name as context; the type is validated by then, or is missing."""
        if info.context is None or "type" not in info.data:
            return body
        bodies: Mapping[str, type[Body]] = info.context
        kind = bodies.get(info.data["type"])
        if kind is None:
            known = ", ".join(sorted(bodies))
            raise ValueError(f"unknown message type {info.data['type']!r}; known here: {known}")
        return kind.model_validate(body)

    @model_validator(mode="after")
    def _body_is_of_the_type(self) -> Self:
        if self.type != self.body.type_name() or self.version != self.body.version:
            raise ValueError(
                f"type {self.type} version {self.version} does not go with a body of "
                f"{self.body.type_name()} version {self.body.version}"
            )
        return self

    @classmethod
    def about(cls, body: Body, *, now: datetime, trace: str | None = None) -> Self:
        """A new message around `body`, created at `now`."""
        return cls(type=body.type_name(), version=body.version, created_at=now, trace=trace, body=body)

    @property
    def queue(self) -> str:
        """The queue it travels on."""
        return self.body.queue

    def again(self, ids: Sequence[int] | None = None) -> Self:
        """The next attempt at it; with `ids`, at a part of it, which is a message of its own."""
        update: dict[str, Any] = {"attempt": self.attempt + 1}
        if ids is not None and tuple(ids) != self.body.ids():
            update |= {"body": self.body.with_ids(ids), "id": uuid_utils.compat.uuid7()}
        return self.model_copy(update=update)

    def split(self) -> tuple[Self, Self] | None:
        """Two messages about half of the ids each, or None when it names fewer than two."""
        ids = self.body.ids()
        if len(ids) < 2:
            return None
        middle = len(ids) // 2
        left, right = (
            self.model_copy(update={"id": uuid_utils.compat.uuid7(), "body": self.body.with_ids(part)})
            for part in (ids[:middle], ids[middle:])
        )
        return left, right

    def encode(self) -> bytes:
        """UTF-8 JSON. Raises ValueError above 1 MiB."""
        raw = self.model_dump_json().encode()
        if len(raw) > MAX_BYTES:
            raise ValueError(f"a message of {len(raw)} bytes is over the limit of {MAX_BYTES}; name fewer ids")
        return raw


def decode(raw: bytes | str, bodies: Mapping[str, type[Body]]) -> Message:
    """The message in `raw`; `bodies` maps type names to body classes.

    Raises ValueError (pydantic's ValidationError among them) on anything but a valid message.
    """
    if len(raw) > MAX_BYTES:
        raise ValueError(f"a message of {len(raw)} bytes is over the limit of {MAX_BYTES}")
    message = Message.model_validate_json(raw, context=bodies)
    if not message.model_fields_set >= _ALWAYS_SENT:
        missing = ", ".join(sorted(_ALWAYS_SENT - message.model_fields_set))
        raise ValueError(f"the message lacks {missing}")
    return message


def about_ids(body: type[IdsBody], ids: Iterable[int], *, now: datetime, size: int = MAX_IDS) -> list[Message]:
    """Messages of `body` about `ids`, at most `size` in each; none for no ids."""
    (name,) = body.model_fields
    wanted = list(ids)
    return [
        Message.about(body.model_validate({name: wanted[start : start + size]}), now=now)
        for start in range(0, len(wanted), size)
    ]


CORE_BODIES: tuple[type[Body], ...] = (
    JobsReceived,
    SlotsOffered,
    JobsWaiting,
    ProvisioningDue,
    SiteQueuesDue,
    OutputsReported,
    StepsDue,
    FilesDue,
    Tick,
)
