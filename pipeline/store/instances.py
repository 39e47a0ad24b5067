"""Who is running, and what operators wish of them: instances and queue controls."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Row, delete, select, update

from pipeline.errors import NotFound
from pipeline.store.database import Transaction
from pipeline.store.queue_sizes import Work, add_work
from pipeline.store.tables import instances, queue_controls, queue_loads

_LOAD = ("in_flight", "oldest_age", "slots")


class Wish(StrEnum):
    """What an operator wants of a queue's consumers or of one instance."""

    PAUSE = "pause"
    DRAIN = "drain"


@dataclass(frozen=True, slots=True)
class Identity:
    """What a process says of itself once. `queues` is empty for processes that serve none."""

    id: str
    kind: str
    queues: tuple[str, ...]
    version: str
    host: str
    pid: int
    health_url: str | None


@dataclass(frozen=True, slots=True)
class Load:
    """What a consumer says of one of its queues every second."""

    queue: str
    in_flight: int
    """Messages received and not settled."""
    oldest_age: float | None
    """No message that waits in the queue is older than this (s), as far as it has seen; None: it has seen nothing."""
    slots: int | None = None
    """Its worker processes for the queue; None for a release that does not tell."""


@dataclass(frozen=True, slots=True)
class Pulse:
    """What a process says of itself every second: messages in flight, the oldest one's age (s), its state."""

    in_flight: int = 0
    oldest_age: float | None = None
    state: str = "running"
    loads: tuple[Load, ...] = ()
    work: tuple[Work, ...] = ()
    """What it has done so far, by queue; a beat tells what is new."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is wished of a process: for itself, and by queue."""

    own: Wish | None
    queues: Mapping[str, Wish]


@dataclass(frozen=True, slots=True)
class InstanceRow:
    """An instance as stored. `silence` is how long ago it was last seen (s), by the database's clock."""

    id: str
    kind: str
    queues: tuple[str, ...]
    version: str
    host: str
    pid: int
    health_url: str | None
    in_flight: int
    oldest_age: float | None
    state: str
    wish: str | None
    started_at: datetime
    last_seen: datetime
    silence: float
    loads: tuple[Load, ...] = ()
    """By queue; empty for a process of the release before they were told, or one that serves none."""


@dataclass(frozen=True, slots=True)
class Control:
    """What is wished of a queue, by whom and since when."""

    queue: str
    wish: Wish
    wished_by: str
    wished_at: datetime


def beat(tx: Transaction, identity: Identity, pulse: Pulse) -> Wishes:
    """Say that the process lives, registering it where its row is not there; what is wished of it.

    `pulse.work` is what was done since the last beat.

    A queue's drain wish is meant for those who ran when it was made: who starts later ignores it.
    """
    mine = instances.c.id == identity.id
    _tell_loads(tx, identity.id, pulse.loads)
    add_work(tx, pulse.work)
    row = tx.first(select(instances.c.wish, instances.c.started_at).where(mine))
    if row is None:
        tx.add(instances, **_first_row(tx, identity, pulse))
        return Wishes(None, _queue_wishes(tx, identity.queues, tx.now))
    tx.run(update(instances).where(mine).values(last_seen=tx.now, **_pulse_columns(pulse)))
    own = Wish(row.wish) if row.wish else None
    return Wishes(own, _queue_wishes(tx, identity.queues, row.started_at))


def leave(tx: Transaction, instance_id: str, work: Sequence[Work] = ()) -> None:
    """The process ends cleanly; its rows go. `work` was done since its last beat."""
    add_work(tx, work)
    tx.run(delete(queue_loads).where(queue_loads.c.instance_id == instance_id))
    tx.run(delete(instances).where(instances.c.id == instance_id))


def pause(tx: Transaction, queue: str, by: str) -> None:
    """Consumers of `queue` stop receiving, and go on running, until `resume`."""
    _control(tx, queue, Wish.PAUSE, by)


def resume(tx: Transaction, queue: str) -> bool:
    """Take a pause or drain of `queue` back; False when there was none."""
    return tx.run(delete(queue_controls).where(queue_controls.c.queue == queue)) > 0


def drain_queue(tx: Transaction, queue: str, by: str) -> None:
    """Every consumer of `queue` that runs now ends it after finishing what is in flight."""
    _control(tx, queue, Wish.DRAIN, by)


def drain_instance(tx: Transaction, instance_id: str) -> None:
    """The instance ends after finishing what is in flight. Raises NotFound."""
    find(tx, instance_id)
    tx.run(update(instances).where(instances.c.id == instance_id).values(wish=Wish.DRAIN))


def find(tx: Transaction, instance_id: str) -> None:
    """See that there is such an instance. Raises NotFound."""
    if tx.first(select(instances.c.id).where(instances.c.id == instance_id)) is None:
        raise NotFound(f"there is no instance {instance_id[:200]!r}; `penstock instances` lists them")


def list_instances(tx: Transaction) -> list[InstanceRow]:
    """Every registered process, by kind and age; one that died without a word shows by its silence."""
    rows = tx.rows(select(instances).order_by(instances.c.kind, instances.c.started_at, instances.c.id))
    loads: defaultdict[str, list[Load]] = defaultdict(list)
    for load in tx.rows(select(queue_loads).order_by(queue_loads.c.queue)):
        loads[load.instance_id].append(Load(load.queue, load.in_flight, load.oldest_age, load.slots))
    return [_instance(tx, row, loads[row.id]) for row in rows]


def controls(tx: Transaction) -> list[Control]:
    """The wishes in force, by queue."""
    rows = tx.rows(select(queue_controls).order_by(queue_controls.c.queue))
    return [Control(row.queue, Wish(row.wish), row.wished_by, row.wished_at) for row in rows]


def forget_silent(tx: Transaction, silence: float) -> int:
    """Delete the rows of processes not seen for so many seconds; how many."""
    gone = tx.run(delete(instances).where(instances.c.last_seen < tx.after(-silence)))
    tx.run(delete(queue_loads).where(queue_loads.c.instance_id.not_in(select(instances.c.id))))
    return gone


def _instance(tx: Transaction, row: Row[Any], loads: Sequence[Load]) -> InstanceRow:
    return InstanceRow(
        id=row.id,
        kind=row.kind,
        queues=tuple(row.queues.split()),
        version=row.version,
        host=row.host,
        pid=row.pid,
        health_url=row.health_url,
        in_flight=row.in_flight,
        oldest_age=row.oldest_age,
        state=row.state,
        wish=row.wish,
        started_at=row.started_at,
        last_seen=row.last_seen,
        silence=max(0.0, (tx.now - row.last_seen).total_seconds()),
        loads=tuple(loads),
    )


def _tell_loads(tx: Transaction, instance_id: str, loads: Sequence[Load]) -> None:
    tx.put(queue_loads, [{"instance_id": instance_id, **asdict(load)} for load in loads], _LOAD)
    if loads:  # what was drained is told of no more, lest it look as if somebody still minded it
        ended = queue_loads.c.queue.not_in([load.queue for load in loads])
        tx.run(delete(queue_loads).where(queue_loads.c.instance_id == instance_id, ended))


def _control(tx: Transaction, queue: str, wish: Wish, by: str) -> None:
    row = {"queue": queue, "wish": wish, "wished_by": by, "wished_at": tx.now}
    tx.put(queue_controls, [row], ("wish", "wished_by", "wished_at"))


def _queue_wishes(tx: Transaction, queues: Sequence[str], started_at: datetime) -> dict[str, Wish]:
    if not queues:
        return {}
    found = (control for control in controls(tx) if control.queue in queues)
    return {
        control.queue: control.wish
        for control in found
        if control.wish is Wish.PAUSE or control.wished_at >= started_at
    }


def _first_row(tx: Transaction, identity: Identity, pulse: Pulse) -> dict[str, object]:
    return {
        "id": identity.id,
        "kind": identity.kind,
        "queues": " ".join(identity.queues),
        "version": identity.version,
        "host": identity.host,
        "pid": identity.pid,
        "health_url": identity.health_url,
        "started_at": tx.now,
        "last_seen": tx.now,
        **_pulse_columns(pulse),
    }


def _pulse_columns(pulse: Pulse) -> dict[str, object]:
    return {"in_flight": pulse.in_flight, "oldest_age": pulse.oldest_age, "state": pulse.state}
