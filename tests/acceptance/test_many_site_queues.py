"""One consumer carries out a thousand site queues a minute whose batch systems take their time, and one that hangs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, select

from pipeline.store import sites
from pipeline.store.access import ensure_vo
from pipeline.store.database import Database, Transaction
from pipeline.store.tables import pilots, site_queues
from schemas.messages import SiteQueuesDue, about_ids
from schemas.sites import SitesFile
from schemas.states import PilotState
from tests.outside.stage import Stage, StageMaker, stages
from tests.servers import MariaDbServer, RedisServer
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


def declare(database: Database, data_dir: Path) -> None:
    """The queue q0 hangs."""
    slow = {"batch_system": "slow", "pilot": "sleeping"}
    queues = [
        {"name": f"q{number}", **slow, "options": {"seconds": SECONDS, "hangs": number == 0}}
        for number in range(QUEUES + 1)
    ]
    file = SitesFile.model_validate(
        {
            "storages": [{"name": "disk", "url": "file://${DATA_DIR}/storage"}],
            "sites": [{"name": "SITE", "storages": ["disk"], "queues": queues}],
        }
    )
    database.transact(lambda tx: ensure_vo(tx, "default"))
    database.transact(lambda tx: sites.apply(tx, file, data_dir=data_dir))


def request_one_each(tx: Transaction) -> list[int]:
    """A pilot for each queue; the ids of the queues."""
    rows = tx.rows(select(site_queues.c.id, site_queues.c.site_id).order_by(site_queues.c.id))
    common = {"state": PilotState.REQUESTED, "cores": 1, "vo_id": 1, "requested_at": tx.now}
    new = [{"tag": f"{row.id:032x}", "site_queue_id": row.id, "site_id": row.site_id, **common} for row in rows]
    tx.add_all(pilots, new)
    return [row.id for row in rows]


def submitted(stage: Stage) -> int:
    count = select(func.count()).select_from(pilots).where(pilots.c.state == PilotState.SUBMITTED)
    return int(stage.database.read(lambda tx: tx.scalar(count)))


@pytest.mark.alone
def test_a_thousand_slow_site_queues_are_carried_out_side_by_side(
    make_stage: StageMaker, mariadb_server: MariaDbServer
) -> None:
    stage = make_stage(queue="pilots", database_url=mariadb_server.new_database())
    declare(stage.database, stage.folder)
    queue_ids = stage.database.transact(request_one_each)
    stage.start()
    began = time.monotonic()
    stage.publish(*about_ids(SiteQueuesDue, queue_ids, now=stage.database.now(), size=1))
    eventually(lambda: submitted(stage) == QUEUES, within=QUEUES, every=0.5)
    took = time.monotonic() - began
    print(f"{QUEUES} site queues took {took:.1f} s, that is {QUEUES * 60 / took:.0f} a minute")
    assert took < 2 * SECONDS * QUEUES / AT_ONCE
    leased = select(site_queues.c.name).where(site_queues.c.lease_owner.is_not(None))
    eventually(lambda: [row.name for row in stage.database.read(lambda tx: tx.rows(leased))] == ["q0"])
