"""Pilots: let in with a secret, known by their token, ended once. Lock order: pilots, slots, jobs."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, case, delete, func, select, update

from pipeline.errors import Conflict, Unauthorized
from pipeline.store import jobs, node_kinds, nodes
from pipeline.store.access import digest
from pipeline.store.database import Transaction
from pipeline.store.losses import NOTHING, Aftermath, Rules, lose
from pipeline.store.tables import enrolments, pilots, site_queues, sites, slots, vos
from schemas.nodes import node_kind
from schemas.pilots import EnrolRequest
from schemas.sites import SiteQueueEntry
from schemas.states import PILOT_ACTIVE, PILOT_FINAL, PILOT_PENDING, PILOT_TRANSITIONS, PilotState

TOKEN_PREFIX = "pil_"  # noqa: S105 - a prefix, no secret
SECRET_PREFIX = "enr_"  # noqa: S105 - a prefix, no secret
MAX_REASON = 500
_LET_IN = frozenset({PilotState.RUNNING, PilotState.LOST})
"""How a pilot stands that was let in and has not been heard since."""


@dataclass(frozen=True, slots=True)
class PilotRow:
    """One pilot, with the names of its site and its VO."""

    id: int
    tag: str
    site_queue_id: int
    site_id: int
    site: str
    vo_id: int
    vo: str
    state: PilotState
    cores: int
    remove_requested: bool
    drain_requested: bool
    queue_declared: bool
    failures_in_row: int
    last_seen: datetime | None
    reason: str | None

    def drains(self, rules: Rules) -> bool:
        """Whether it shall take no more jobs."""
        return (
            self.state is PilotState.DRAINING
            or self.drain_requested
            or self.remove_requested
            or not self.queue_declared
            or self.failures_in_row >= rules.max_failures
        )


@dataclass(frozen=True, slots=True)
class Enrolled:
    """A pilot that was let in: the token is shown this once. `lifetime` is seconds from now on."""

    pilot_id: int
    token: str
    lifetime: float


def new_secret(tx: Transaction, site_queue_id: int, vo_id: int, *, uses: int, valid_for: float) -> str:
    """A secret that lets `uses` pilots of one VO on one site queue in, for `valid_for` seconds."""
    secret = SECRET_PREFIX + secrets.token_urlsafe(32)
    tx.add(
        enrolments,
        digest=digest(secret),
        site_queue_id=site_queue_id,
        vo_id=vo_id,
        uses_left=uses,
        expires_at=tx.after(valid_for),
    )
    return secret


def enrol(tx: Transaction, request: EnrolRequest, margin: float) -> Enrolled:
    """Let a pilot in. One that has said nothing since lost our answer: it gets a new token, and its old one is void.

    Raises Unauthorized for a bad secret, Conflict for a tag that is taken or not wanted any more.
    """
    enrolment = _enrolment(tx, request.secret)
    found = _locked(tx, pilots.c.tag == request.tag)
    mine = (enrolment.site_queue_id, enrolment.vo_id)
    if found is None or (found[0].site_queue_id, found[0].vo_id) != mine:
        raise Unauthorized(f"the enrolment secret does not go with a pilot of tag {request.tag!r}")
    pilot, around = found
    is_repeated = around.token_digest is not None
    if is_repeated and not _is_silent(tx, pilot, around):
        raise Conflict(f"the pilot {request.tag} has enrolled already; the batch system seems to have started it twice")
    wanted_in = _LET_IN if is_repeated else PILOT_PENDING
    if pilot.state not in wanted_in or pilot.remove_requested:
        raise Conflict(f"the pilot {request.tag} is {pilot.state} and not wanted any more")
    if not is_repeated:
        _spend(tx, enrolment.id)
    ends_at = around.ends_at if is_repeated else _end_of_life(tx, around, margin)
    return _let_in(tx, pilot, request, ends_at)


def _end_of_life(tx: Transaction, around: Row[Any], margin: float) -> datetime:
    """So long before the wall time is over, or the delegated proxy that the pilot runs with."""
    ends_at = tx.after(SiteQueueEntry.model_validate_json(around.entry).lifetime(margin))
    if around.proxy_ends_at is None:
        return ends_at
    left = (around.proxy_ends_at - tx.now).total_seconds()
    return min(ends_at, tx.after(max(left - margin, left / 2, 0.0)))


def wanted_when_over(tx: Transaction) -> ColumnElement[Any]:
    """For `output_wanted_at` of pilots that end: the round of their queue fetches what those wrote that their batch
    system knows, and lets it forget them."""
    known = pilots.c.batch_id.is_not(None)
    return case((known, func.coalesce(pilots.c.output_wanted_at, tx.now)), else_=pilots.c.output_wanted_at)


def _let_in(tx: Transaction, pilot: PilotRow, request: EnrolRequest, ends_at: datetime) -> Enrolled:
    token = TOKEN_PREFIX + secrets.token_urlsafe(32)
    values: dict[str, Any] = {
        "state": PilotState.RUNNING,
        "token_digest": digest(token),
        "node": json.dumps({**request.node.model_dump(), "version": request.version}),
        "resource_id": node_kinds.keep(tx, node_kind(request.node)),
        "started_at": tx.now,
        "last_seen": tx.now,
        "ends_at": ends_at,
    }
    why_not = nodes.resting(tx, pilot.site_id, request.node.host)
    if why_not is not None:
        values |= {"drain_requested": True, "reason": why_not}
    tx.run(update(pilots).where(pilots.c.id == pilot.id).values(values))
    return Enrolled(pilot.id, token, max((ends_at - tx.now).total_seconds(), 0.0))


def _is_silent(tx: Transaction, pilot: PilotRow, around: Row[Any]) -> bool:
    """Whether an enrolled pilot has neither been heard since nor offered anything."""
    offered = tx.first(select(slots.c.pilot_id).where(slots.c.pilot_id == pilot.id))
    return pilot.last_seen == around.started_at and offered is None


def lock(tx: Transaction, pilot_id: int) -> PilotRow:
    """A pilot, locked. Raises Unauthorized for one that has ended: its token is worth nothing any more."""
    pilot = _lock(tx, pilot_id)
    if pilot.state in PILOT_FINAL:
        raise Unauthorized(f"the pilot {pilot.tag} is {pilot.state}; it must end itself")
    return pilot


def lock_callers(tx: Transaction, token_digests: Iterable[str]) -> dict[str, PilotRow]:
    """The pilots whose tokens have these digests, locked; without those that have ended, or that another holds.

    By SKIP LOCKED: whoever locks many pilots must not wait for one. The index is forced, lest a scan lock others.
    """
    query = _own_columns().with_hint(pilots, "FORCE INDEX (uq_pilots_token_digest)", "mysql")
    alive = pilots.c.state.not_in(PILOT_FINAL)
    rows = tx.lock(query.where(pilots.c.token_digest.in_(set(token_digests)), alive), skip_locked=True)
    around = _surroundings(tx, [row.id for row in rows])
    return {row.token_digest: _row(row, around[row.id]) for row in rows}


def live_callers(tx: Transaction, token_digests: Iterable[str]) -> set[str]:
    """Those of the tokens' digests that belong to pilots which have not ended; nothing is locked."""
    mine = (pilots.c.token_digest.in_(set(token_digests)), pilots.c.state.not_in(PILOT_FINAL))
    return {row.token_digest for row in tx.rows(select(pilots.c.token_digest).where(*mine))}


def still_silent(tx: Transaction, pilot_id: int, seconds: float) -> bool:
    """Whether an active pilot has said nothing for so long. It can't until the transaction ends: it is locked."""
    silent = (pilots.c.state.in_(PILOT_ACTIVE), pilots.c.last_seen < tx.after(-seconds))
    return bool(tx.lock(select(pilots.c.id).where(pilots.c.id == pilot_id, *silent)))


def seen(tx: Transaction, found: Sequence[PilotRow]) -> None:
    """These locked pilots live; those that were thought lost run again."""
    lost = {pilot.id for pilot in found if pilot.state is PilotState.LOST}
    for ids, values in ((lost, {"state": PilotState.RUNNING}), ({pilot.id for pilot in found} - lost, {})):
        if ids:
            tx.run(update(pilots).where(pilots.c.id.in_(sorted(ids))).values({"last_seen": tx.now, **values}))


def set_failures(tx: Transaction, pilot: PilotRow, failures: int, rules: Rules) -> None:
    """How many jobs in a row failed by its node; at so many that node rests, unless jobs fail like that everywhere."""
    if failures == pilot.failures_in_row:
        return
    is_too_much = pilot.failures_in_row < rules.max_failures <= failures
    if is_too_much and nodes.fail_everywhere(tx, pilot.vo_id, pilot.id):
        failures, is_too_much = rules.max_failures - 1, False
    tx.run(update(pilots).where(pilots.c.id == pilot.id).values(failures_in_row=failures))
    if is_too_much:
        nodes.rest(tx, pilot.id, failures, rules.node_rest)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a pilot ends. One that has spoken after `unless_seen_after` lives, whatever its batch system says."""

    to: PilotState
    reason: str
    unless_seen_after: datetime | None = None


def end(tx: Transaction, pilot_id: int, ending: Ending, rules: Rules) -> Aftermath:
    """End a pilot; jobs that it still holds are infrastructure losses. For one that has ended, nothing is done.

    Why it was told to drain outlives its own last word, which is no more than that it was told.
    """
    pilot = _lock(tx, pilot_id)
    to, reason, known = ending.to, ending.reason, ending.unless_seen_after
    if pilot.state in PILOT_FINAL or (known is not None and pilot.last_seen is not None and pilot.last_seen > known):
        return NOTHING
    if to not in PILOT_TRANSITIONS[pilot.state]:
        raise ValueError(f"pilot {pilot.id} may not go from {pilot.state} to {to}")
    told = pilot.reason if to is PilotState.DONE and pilot.drain_requested else None
    tx.run(
        update(pilots)
        .where(pilots.c.id == pilot.id)
        .values(
            state=to,
            reason=(told or reason)[:MAX_REASON] or None,
            ended_at=tx.now,
            output_wanted_at=wanted_when_over(tx),
        )
    )
    tx.run(delete(slots).where(slots.c.pilot_id == pilot.id))
    return lose(tx, jobs.of_pilot(tx, pilot.id), f"its pilot ended: {reason}", rules)


def _enrolment(tx: Transaction, secret: str) -> Row[Any]:
    valid = (enrolments.c.digest == digest(secret), enrolments.c.expires_at > tx.now)
    row = tx.first(select(enrolments.c.id, enrolments.c.site_queue_id, enrolments.c.vo_id).where(*valid))
    if row is None:
        raise Unauthorized("the enrolment secret is unknown or expired; the pilot was submitted by nobody")
    return row


def _spend(tx: Transaction, enrolment_id: int) -> None:
    usable = (enrolments.c.id == enrolment_id, enrolments.c.uses_left > 0)
    if not tx.run(update(enrolments).where(*usable).values(uses_left=enrolments.c.uses_left - 1)):
        raise Unauthorized("the enrolment secret is used up; more pilots were started than were submitted with it")


def _lock(tx: Transaction, pilot_id: int) -> PilotRow:
    found = _locked(tx, pilots.c.id == pilot_id)
    if found is None:
        raise Unauthorized(f"there is no pilot {pilot_id} any more")
    return found[0]


def _locked(tx: Transaction, condition: ColumnElement[bool]) -> tuple[PilotRow, Row[Any]] | None:
    """A pilot with the row that names its surroundings."""
    rows = tx.lock(_own_columns().where(condition))
    around = _surroundings(tx, [row.id for row in rows])
    return next(((_row(row, around[row.id]), around[row.id]) for row in rows), None)


def _own_columns() -> Select[Any]:
    return select(*(pilots.c[name] for name in PilotRow.__slots__ if name in pilots.c), pilots.c.token_digest)


def _surroundings(tx: Transaction, pilot_ids: Sequence[int]) -> Mapping[int, Row[Any]]:
    """By pilot; these rows are not locked: a site's pilots must not queue for it."""
    if not pilot_ids:
        return {}
    query = (
        select(
            pilots.c.id,
            sites.c.name.label("site"),
            vos.c.name.label("vo"),
            site_queues.c.declared.label("queue_declared"),
            site_queues.c.entry,
            pilots.c.token_digest,
            pilots.c.started_at,
            pilots.c.ends_at,
            pilots.c.proxy_ends_at,
        )
        .join_from(pilots, sites, sites.c.id == pilots.c.site_id)
        .join(vos, vos.c.id == pilots.c.vo_id)
        .join(site_queues, site_queues.c.id == pilots.c.site_queue_id)
        .where(pilots.c.id.in_(pilot_ids))
        .prefix_with("STRAIGHT_JOIN", dialect="mysql")  # else MariaDB begins with all pilots of a VO
    )
    return {row.id: row for row in tx.rows(query)}


def _row(own: Row[Any], around: Row[Any]) -> PilotRow:
    values = {**around._asdict(), **own._asdict()}
    wanted = {name: values[name] for name in PilotRow.__slots__}
    return PilotRow(**{**wanted, "state": PilotState(values["state"])})
