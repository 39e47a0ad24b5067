"""One consumer carries out a thousand site queues a minute whose batch systems take their time, and one that hangs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, select

from pipeline.store.tables import pilots
from schemas.messages import SiteQueuesDue, about_ids
from schemas.states import PilotState
from tests.outside.stage import Stage, StageMaker, stages
from tests.servers import MariaDbServer, RedisServer
from tests.site_queues import declare_queues, queue_rows, request_pilots
from tests.waiting import eventually

QUEUES = 1_000
SECONDS = 2.0
"""That each call to a batch system takes; a round is two of them."""
AT_ONCE = 60
"""As many rounds must be under way at a time, on the average: a thousand a minute take 67."""


@pytest.fixture
def make_stage(tmp_path: Path, redis_server: RedisServer) -> Iterator[StageMaker]:
    redis_server.flush()
    with stages(tmp_path, redis_server.url) as make:
        yield make


def submitted(stage: Stage) -> int:
    count = select(func.count()).select_from(pilots).where(pilots.c.state == PilotState.SUBMITTED)
    return int(stage.database.read(lambda tx: tx.scalar(count)))


@pytest.mark.alone
def test_a_thousand_slow_site_queues_are_carried_out_side_by_side(
    make_stage: StageMaker, mariadb_server: MariaDbServer, tmp_path: Path
) -> None:
    stage = make_stage(queue="pilots", database_url=mariadb_server.new_database())
    slow = {"batch_system": "slow", "pilot": "sleeping", "options": {"seconds": SECONDS}}
    hanging = {**slow, "name": "hanging", "options": {"hangs": str(tmp_path / "for-ever")}}
    queues = [hanging, *({**slow, "name": f"q{number}"} for number in range(QUEUES))]
    queue_ids = declare_queues(stage.database, stage.folder, *queues)
    request_pilots(stage.database, queue_ids)
    stage.start()
    began = time.monotonic()
    stage.publish(*about_ids(SiteQueuesDue, queue_ids, now=stage.database.now(), size=1))
    eventually(lambda: submitted(stage) == QUEUES, within=QUEUES, every=0.5)
    took = time.monotonic() - began
    print(f"{QUEUES} site queues took {took:.1f} s, that is {QUEUES * 60 / took:.0f} a minute")
    assert took < 2 * SECONDS * QUEUES / AT_ONCE
    eventually(lambda: [row.name for row in queue_rows(stage.database) if row.lease_owner is not None] == ["hanging"])
