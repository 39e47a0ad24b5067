"""Nodes that fail job after job: they rest, and none of their pilots gets a job meanwhile."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta

from sqlalchemy import delete, select, update

from pipeline.store.database import Transaction
from pipeline.store.tables import nodes, pilots
from schemas.states import PILOT_ACTIVE, PILOT_FINAL, PilotState

MAX_HOST = 200
SAMPLE = 200
"""Pilots that are looked at, the ones seen last, to tell whose fault failures are."""
COMMON = 0.2
"""Share of pilots elsewhere that have failures in a row above which it is the jobs' fault, or that of all sites."""
LEAST = 10
"""Pilots elsewhere with failures in a row below which that rule does not apply."""
TRY_AGAIN = 600.0
"""Seconds after a pilot was sent away, since its node rests, until one is tried where no other node gave any."""
_NO_NAMES = frozenset({"", "localhost", "localhost.localdomain"})
"""Hosts that say nothing of who they are: two nodes of one such name need not be one."""


def host_of(node: str | None) -> str | None:
    """The host that a pilot's `node` column names."""
    host = json.loads(node).get("host") if node else None
    return host[:MAX_HOST] if isinstance(host, str) and host else None


def resting(tx: Transaction, site_id: int, host: str) -> str | None:
    """Why no pilot on this node shall take jobs now; None when it may."""
    bad = (nodes.c.site_id == site_id, nodes.c.host == host[:MAX_HOST], nodes.c.bad_until > tx.now)
    reason: str | None = tx.scalar(select(nodes.c.reason).where(*bad))
    return reason


def resting_queues(tx: Transaction) -> Mapping[int, tuple[datetime, str]]:
    """Site queues that have had only resting nodes to give: until when no pilot is asked for there, and why.

    A node that sends pilots away at once takes all that its batch system has, cycle after cycle.
    """
    now_bad = select(nodes).where(nodes.c.bad_until > tx.now)
    bad = {(row.site_id, row.host): row for row in tx.rows(now_bad)}
    if not bad:
        return {}
    gone = (pilots.c.state.in_(PILOT_FINAL), pilots.c.last_seen > tx.after(-TRY_AGAIN), pilots.c.drain_requested)
    columns = (pilots.c.site_queue_id, pilots.c.site_id, pilots.c.node, pilots.c.last_seen)
    found: dict[int, tuple[datetime, str]] = {}
    for row in tx.rows(select(*columns).where(*gone, pilots.c.site_id.in_({site for site, _ in bad}))):
        node = bad.get((row.site_id, host_of(row.node) or ""))
        if node is not None:
            until = min(row.last_seen + timedelta(seconds=TRY_AGAIN), node.bad_until)
            found[row.site_queue_id] = max((until, node.reason), found.get(row.site_queue_id, (until, node.reason)))
    well = (pilots.c.site_queue_id.in_(found), pilots.c.state.in_(PILOT_ACTIVE), ~pilots.c.drain_requested)
    others = {row.site_queue_id for row in tx.rows(select(pilots.c.site_queue_id).where(*well).distinct())}
    return {queue: why for queue, why in found.items() if queue not in others}


def fail_everywhere(tx: Transaction, vo_id: int, pilot_id: int) -> bool:
    """Whether so many of the VO's pilots on other nodes have failures in a row, too, that this node is not the cause:
    a campaign of which half the jobs fail, or a storage that all use, must not put every node to rest."""
    seen = (
        select(pilots.c.vo_id, pilots.c.failures_in_row, pilots.c.node)
        .where(pilots.c.state == PilotState.RUNNING)
        .order_by(pilots.c.last_seen.desc())
        .limit(SAMPLE)
    )
    mine = host_of(tx.scalar(select(pilots.c.node).where(pilots.c.id == pilot_id)))
    others = [row for row in tx.rows(seen) if row.vo_id == vo_id and host_of(row.node) != mine]
    failing = len([row for row in others if row.failures_in_row > 0])
    return failing >= LEAST and failing > COMMON * len(others)


def rest(tx: Transaction, pilot_id: int, failures: int, seconds: float) -> None:
    """A pilot's node has failed so many jobs in a row: all of its pilots drain, and those that come within `seconds`.

    Their rows are locked after the caller's own, in no order that others keep: of two pilots of one node that come
    here at once, one may have to begin again.
    """
    row = tx.first(select(pilots.c.site_id, pilots.c.node).where(pilots.c.id == pilot_id))
    assert row is not None
    host, until = host_of(row.node), tx.after(seconds)
    reason = f"node {host or '(unnamed)'} failed {failures} jobs in a row; no jobs until {until:%Y-%m-%d %H:%M} UTC"
    told = [pilot_id]
    if host is not None and host not in _NO_NAMES:
        tx.run(delete(nodes).where(nodes.c.site_id == row.site_id, nodes.c.bad_until <= tx.now))
        bad = {"site_id": row.site_id, "host": host, "bad_until": until, "reason": reason, "at": tx.now}
        tx.put(nodes, [bad], ("bad_until", "reason", "at"))
        told = sorted({pilot_id, *_pilots_on(tx, row.site_id, host)})
    tx.run(update(pilots).where(pilots.c.id.in_(told)).values(drain_requested=True, reason=reason))


def _pilots_on(tx: Transaction, site_id: int, host: str) -> list[int]:
    """Sought in the text of the JSON, where quotation marks within a value are escaped; SQLite takes A for a there."""
    text = pilots.c.node.contains(json.dumps({"host": host})[1:-1], autoescape=True)
    here = (pilots.c.site_id == site_id, pilots.c.state.in_(PILOT_ACTIVE | {PilotState.LOST}), text)
    rows = tx.rows(select(pilots.c.id, pilots.c.node).where(*here))
    return [row.id for row in rows if host_of(row.node) == host]
