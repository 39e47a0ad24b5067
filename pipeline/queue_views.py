"""How full queues are, put together from what the broker tells and what consumers saw: the same on every broker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from pipeline.scaling import Size
from pipeline.store.instances import Control, InstanceRow, Load
from pipeline.transport.port import Depth
from schemas.api import QueueView

LIVE_WITHIN = 30.0
"""Seconds of silence after which a process is not counted as a queue's consumer."""


def complete(queue: str, depth: Depth, rows: Sequence[InstanceRow]) -> Depth:
    """`depth`, with what the broker does not tell taken from the live consumers of the queue where they can.

    In flight is then what they hold. The age is at most that of their last look at the queue, plus the time since:
    nothing that waits can be older, since queues are served in order. What remains None, nobody knows.
    """
    known = [(row, load_of(row, queue)) for row in serving(queue, rows)]
    in_flight = depth.in_flight
    if in_flight is None and all(load is not None for _row, load in known):
        in_flight = sum(load.in_flight for _row, load in known if load is not None)
    age = depth.oldest_age
    if age is None and depth.ready != 0:
        seen = [row.silence + load.oldest_age for row, load in known if load and load.oldest_age is not None]
        age = max(seen, default=None)
    return Depth(depth.ready, in_flight, age)


def serving(queue: str, rows: Sequence[InstanceRow]) -> list[InstanceRow]:
    """The live consumers of a queue: one that tells of others alone has been drained of this one."""
    live = (row for row in rows if row.silence < LIVE_WITHIN and queue in row.queues)
    return [row for row in live if not row.loads or load_of(row, queue) is not None]


def load_of(row: InstanceRow, queue: str) -> Load | None:
    """What a process says of a queue; None where one of an earlier release serves several and does not tell."""
    for load in row.loads:
        if load.queue == queue:
            return load
    return Load(queue, row.in_flight, row.oldest_age) if row.queues == (queue,) else None


def survey(
    depths: Mapping[str, Depth],
    rows: Sequence[InstanceRow],
    controls: Sequence[Control],
    sizes: Mapping[str, Size] = MappingProxyType({}),
) -> list[QueueView]:
    """What brokers, processes and operators say of each queue, and what was measured of it last."""
    wishes = {control.queue: control.wish for control in controls}
    views = []
    for queue, told in depths.items():
        depth = complete(queue, told, rows)
        size = sizes.get(queue)
        views.append(
            QueueView(
                queue=queue,
                ready=depth.ready,
                in_flight=depth.in_flight,
                oldest_age=depth.oldest_age,
                consumers=len(serving(queue, rows)),
                wish=wishes.get(queue),
                wanted=size and size.wanted,
                arrivals_per_second=size and size.arrivals,
                seconds_per_message=size and size.seconds,
            )
        )
    return views
