"""Drains: begun, kept up, latched and lifted. Rows are never deleted, only lifted.

A process and a queue are drained by the wishes that processes read anyway, a site, a VO or everything by bans of the
drain's own and by telling pilots to end: so processes of the release before obey too, and no hot path reads more.
`drained_at` is set once, when nothing was left; bans and wishes stay until the drain is lifted.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, delete, or_, select, update

from pipeline.errors import BadInput, Conflict, NotFound
from pipeline.store import instances, marks
from pipeline.store.database import Transaction
from pipeline.store.instances import Wish
from pipeline.store.tables import bans, drains, queue_controls, sites, vos
from schemas.drain_views import OF_PROCESSES, DrainKind, DrainState, DrainView

EVERYTHING = "everything"
SETTLE = 5.0
"""Seconds: transactions seldom live longer, so what was decided before the bans has been written then. What is written
later by one that does is told to end like all else; the latch stays."""
UNHEARD = 30.0
"""Seconds for which somebody looks at processes that are silent until they count as gone: after an outage of the
database all are silent, and beat again within that time."""
_LOCK = "drains"
"""Two that drain the same make one drain of it, and none comes between what a lifting reads and takes back."""


@dataclass(frozen=True, slots=True)
class Aim:
    """What is drained, by its kind and name, and the VO that it is for (None: everybody)."""

    kind: DrainKind
    target: str
    vo_id: int | None = None

    @classmethod
    def of_vo(cls, vo_id: int, vo: str, site: str | None) -> Aim:
        """A VO, at one site or everywhere."""
        return cls(DrainKind.VO, vo, vo_id) if site is None else cls(DrainKind.SITE, site, vo_id)


@dataclass(frozen=True, slots=True)
class Order:
    """Who drains and why, within how many seconds (None: no deadline), and whether what is left then is killed."""

    by: str
    why: str = ""
    seconds: float | None = None
    kills: bool = False


@dataclass(frozen=True, slots=True)
class Drain:
    """A drain as stored, and the database's clock when it was read."""

    id: int
    kind: DrainKind
    target: str
    vo_id: int | None
    vo: str | None
    wished_by: str
    why: str
    started_at: datetime
    deadline_at: datetime | None
    kills: bool
    silent_since: datetime | None
    drained_at: datetime | None
    lifted_at: datetime | None
    lifted_by: str | None
    now: datetime

    @property
    def is_overdue(self) -> bool:
        """Whether its deadline has passed before nothing was left."""
        return self.drained_at is None and self.deadline_at is not None and self.deadline_at <= self.now

    @property
    def is_just_lifted(self) -> bool:
        """Whether jobs may be held for it that are still being written."""
        return self.lifted_at is not None and (self.now - self.lifted_at).total_seconds() < SETTLE

    @property
    def state(self) -> DrainState:
        """How far it is."""
        if self.lifted_at is not None:
            return DrainState.LIFTED
        if self.drained_at is not None:
            return DrainState.DRAINED
        return DrainState.OVERDUE if self.is_overdue else DrainState.DRAINING

    @property
    def words(self) -> str:
        """Who drains, why, and which drain it is, for rows that it changes."""
        return f"drained by {self.wished_by}" + (f": {self.why}" if self.why else "") + f" (drain {self.id})"

    def view(self) -> DrainView:
        """As people see it."""
        return DrainView(
            id=self.id,
            kind=self.kind,
            target=self.target,
            vo=self.vo,
            state=self.state,
            by=self.wished_by,
            why=self.why,
            started_at=self.started_at,
            deadline_at=self.deadline_at,
            kills=self.kills,
            drained_at=self.drained_at,
            lifted_at=self.lifted_at,
            lifted_by=self.lifted_by,
        )


def start(tx: Transaction, aim: Aim, order: Order) -> Drain:
    """Begin to drain. Where the same is drained already, that drain goes on, with the deadline and the reason that are
    given now; one that kills at its deadline still does.

    A queue that was drained is drained anew: that concerns those who serve it now. Raises NotFound for a process or a
    site that is not there, BadInput for killing without a deadline, or processes, Conflict for a queue that is paused.
    """
    if order.kills and order.seconds is None:
        raise BadInput("to kill what is left takes a deadline", field="kill")
    if order.kills and aim.kind in OF_PROCESSES:
        raise BadInput("processes end by themselves, at their PENSTOCK_DRAIN_DEADLINE: nothing of theirs is killed")
    marks.lock(tx, _LOCK)
    known = _in_force(tx, aim)
    if known is not None and not (aim.kind is DrainKind.QUEUE and known.drained_at):
        return _hasten(tx, known, order)
    if known is not None:
        _mark_lifted(tx, known.id, order.by)
    _check(tx, aim)
    drain_id = tx.add(
        drains,
        kind=aim.kind,
        target=aim.target,
        vo_id=aim.vo_id,
        wished_by=order.by,
        why=order.why,
        started_at=tx.now,
        deadline_at=None if order.seconds is None else tx.after(order.seconds),
        kills=order.kills,
    )
    drain = find(tx, drain_id)
    if drain.kind is DrainKind.INSTANCE:
        instances.drain_instance(tx, drain.target)
    elif drain.kind is DrainKind.QUEUE:
        instances.drain_queue(tx, drain.target, order.by)
    else:
        _ban(tx, drain)
    return drain


def lift(tx: Transaction, aim: Aim, by: str) -> Drain | None:
    """Take back a drain and its own bans, or its own wish; None where there is none. Pilots that were told to end do.

    Raises Conflict for a process: it ends once it was told to.
    """
    if aim.kind is DrainKind.INSTANCE:
        raise Conflict(f"{aim.target} ends, and can't be called back; start another one")
    marks.lock(tx, _LOCK)
    known = _in_force(tx, aim)
    if known is None:
        return None
    _mark_lifted(tx, known.id, by)
    if known.kind is DrainKind.QUEUE:
        mine = (queue_controls.c.wish == Wish.DRAIN, queue_controls.c.wished_at == known.started_at)
        tx.run(delete(queue_controls).where(queue_controls.c.queue == known.target, *mine))
    else:
        mine = (bans.c.drain_id == known.id, bans.c.lifted_at.is_(None))
        tx.run(update(bans).where(*mine).values(lifted_at=tx.now, lifted_by=by))
    return find(tx, known.id)


def keep_up(tx: Transaction, drain_id: int) -> Drain | None:
    """Ban sites that came since; None where the drain is over, or where somebody has taken its wish back."""
    marks.lock(tx, _LOCK)
    drain = find(tx, drain_id)
    if drain.lifted_at is not None:
        return None
    if drain.kind is DrainKind.QUEUE and not _is_wished(tx, drain):
        _mark_lifted(tx, drain.id, "pause or resume")
        return None
    if drain.kind not in OF_PROCESSES:
        _ban(tx, drain)
    return drain


def latch(tx: Transaction, drain_id: int, *, by_silence: bool = False) -> bool:
    """Note that nothing is left; whether that is news. Never taken back, and never for a drain that has just begun.

    `by_silence`: nothing is left but processes that are silent, which is noted first, and believed `UNHEARD` later.
    """
    where = [drains.c.id == drain_id, drains.c.drained_at.is_(None), drains.c.lifted_at.is_(None)]
    if by_silence:
        tx.run(update(drains).where(*where, drains.c.silent_since.is_(None)).values(silent_since=tx.now))
        where.append(drains.c.silent_since <= tx.after(-UNHEARD))
    where.append(or_(drains.c.kind.in_(OF_PROCESSES), drains.c.started_at <= tx.after(-SETTLE)))
    return tx.run(update(drains).where(*where).values(drained_at=tx.now)) > 0


def heard(tx: Transaction, drain_id: int) -> None:
    """Note that one of those that were silent is not."""
    tx.run(update(drains).where(drains.c.id == drain_id).values(silent_since=None))


def find(tx: Transaction, drain_id: int, *, seen_by: int | None = None) -> Drain:
    """A drain; `seen_by` is the VO that asks, which sees its own and those of everybody. Raises NotFound."""
    query = _query().where(drains.c.id == drain_id)
    found = tx.first(query if seen_by is None else query.where(_concerns(seen_by)))
    if found is None:
        raise NotFound(f"there is no drain {drain_id}; `penstock drains` lists them")
    return _drain(tx, found)


def all_in_force(tx: Transaction) -> list[Drain]:
    """Those that somebody must keep up, the oldest first."""
    return [_drain(tx, row) for row in tx.rows(_query().where(_OPEN).order_by(drains.c.id))]


def some(
    tx: Transaction, *, most: int, below: int = 0, lifted: bool = False, seen_by: int | None = None
) -> list[Drain]:
    """Up to `most` drains, the newest first, with ids below `below` where it is not 0; also lifted ones, if asked."""
    query = _query().order_by(drains.c.id.desc()).limit(most)
    if below:
        query = query.where(drains.c.id < below)
    if not lifted:
        query = query.where(_OPEN)
    if seen_by is not None:
        query = query.where(_concerns(seen_by))
    return [_drain(tx, row) for row in tx.rows(query)]


def news(tx: Transaction) -> list[Drain]:
    """Those that are in another state than was last noted as told. One that was lifted a moment ago is none yet: what
    was decided while it was in force may not have been written."""
    untold = or_(drains.c.told.is_(None), drains.c.told != DrainState.LIFTED)
    ended = (drains.c.kind == DrainKind.INSTANCE) & (drains.c.told == DrainState.DRAINED)
    query = _query().where(untold, or_(drains.c.told.is_(None), ~ended)).order_by(drains.c.id)
    known = [(_drain(tx, row), row.told) for row in tx.rows(query)]
    return [drain for drain, told in known if drain.state != told and not drain.is_just_lifted]


def note_told(tx: Transaction, news: Collection[Drain]) -> None:
    """Note that these news are known; one that has changed since will be news again."""
    for drain in news:
        tx.run(update(drains).where(drains.c.id == drain.id).values(told=drain.state))


_OPEN = drains.c.lifted_at.is_(None) & ~((drains.c.kind == DrainKind.INSTANCE) & drains.c.drained_at.is_not(None))
"""A process that has ended needs nobody to lift its drain."""


def _concerns(vo_id: int) -> ColumnElement[bool]:
    return or_(drains.c.vo_id.is_(None), drains.c.vo_id == vo_id)


def _query() -> Select[Any]:
    return select(drains, vos.c.name.label("vo")).outerjoin(vos, vos.c.id == drains.c.vo_id)


def _drain(tx: Transaction, row: Row[Any]) -> Drain:
    columns = {name: value for name, value in row._asdict().items() if name != "told"}
    return Drain(**{**columns, "kind": DrainKind(row.kind), "now": tx.now})


def _in_force(tx: Transaction, aim: Aim) -> Drain | None:
    whose = drains.c.vo_id.is_(None) if aim.vo_id is None else drains.c.vo_id == aim.vo_id
    row = tx.first(_query().where(_OPEN, drains.c.kind == aim.kind, drains.c.target == aim.target, whose))
    return None if row is None else _drain(tx, row)


def _hasten(tx: Transaction, known: Drain, order: Order) -> Drain:
    """What is given is taken on; what was given before and is not now stays."""
    changed: dict[str, object] = {}
    if order.seconds is not None:
        changed |= {"deadline_at": tx.after(order.seconds), "kills": order.kills or known.kills}
    if order.why:
        changed["why"] = order.why
        tx.run(update(bans).where(bans.c.drain_id == known.id, bans.c.lifted_at.is_(None)).values(why=order.why))
    if changed:
        tx.run(update(drains).where(drains.c.id == known.id).values(changed))
    return find(tx, known.id)


def _check(tx: Transaction, aim: Aim) -> None:
    if aim.kind is DrainKind.SITE and tx.first(select(sites.c.id).where(sites.c.name == aim.target)) is None:
        raise NotFound(f"there is no site {aim.target!r}; `penstock sites list` shows what there is", field="site")
    if aim.kind is DrainKind.INSTANCE:
        instances.find(tx, aim.target)
    if aim.kind is DrainKind.QUEUE and _wish_of(tx, aim.target) is Wish.PAUSE:
        raise Conflict(
            f"{aim.target} is paused, and a drain would take the pause back; `penstock resume {aim.target}` first, or "
            "drain the processes that serve it by their names: those started later find it paused"
        )


def _wish_of(tx: Transaction, queue: str) -> Wish | None:
    return next((control.wish for control in instances.controls(tx) if control.queue == queue), None)


def _ban(tx: Transaction, drain: Drain) -> None:
    """A ban of its own on every site that it is about and that has none of it."""
    query = select(sites.c.id).order_by(sites.c.id)
    if drain.kind is DrainKind.SITE:
        query = query.where(sites.c.name == drain.target)
    banned = _banned(tx, drain)
    common = {
        "vo_id": drain.vo_id,
        "banned_by": f"drain {drain.id} of {drain.wished_by}"[:200],
        "why": drain.why or "it is drained",
        "created_at": tx.now,
        "drain_id": drain.id,
    }
    tx.add_all(bans, [{"site_id": row.id, **common} for row in tx.rows(query) if row.id not in banned])


def _banned(tx: Transaction, drain: Drain) -> Collection[int]:
    mine = (bans.c.drain_id == drain.id, bans.c.lifted_at.is_(None))
    return {row.site_id for row in tx.rows(select(bans.c.site_id).where(*mine))}


def _mark_lifted(tx: Transaction, drain_id: int, by: str) -> None:
    tx.run(update(drains).where(drains.c.id == drain_id).values(lifted_at=tx.now, lifted_by=by))


def _is_wished(tx: Transaction, drain: Drain) -> bool:
    """A later wish to drain the same queue, as release 0.4.0 writes it, says no less."""
    later = (queue_controls.c.wish == Wish.DRAIN, queue_controls.c.wished_at >= drain.started_at)
    query = select(queue_controls.c.queue).where(queue_controls.c.queue == drain.target, *later)
    return tx.first(query) is not None
