"""kill -9 of the consumer between a batch system's answer and the commit: no pilot is orphaned, doubled, over a cap."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Row, update

from pipeline.store.tables import pilots, site_queues
from schemas.messages import SiteQueuesDue, about_ids
from schemas.states import PILOT_FINAL, PILOT_PENDING, PilotState
from tests.conformance.batch_site import BatchSite, open_kind
from tests.conformance.htcondor_site import HtcondorSite
from tests.conformance.slurm_site import SlurmSite
from tests.htcondor import HtcondorPool
from tests.outside.stage import Stage, StageMaker, stages
from tests.servers import MariaDbServer, RedisServer
from tests.site_queues import declare_queues, pilot_rows, queue_rows, request_pilots
from tests.slurm import SlurmServer
from tests.waiting import eventually

KILLS = 20
CAP = 8
MOST_ANSWERS = 5
"""A round is at the most so many calls: poll, remove, submit, fetch the output, forget."""


@dataclass(frozen=True, slots=True)
class Ground:
    """A site, and how many pilots live there by its own account."""

    site: BatchSite
    living: Callable[[], int]

    @property
    def notes(self) -> Path:
        """Where its pilots say that they have begun."""
        return self.site.notes / "started"


def _slurm(request: pytest.FixtureRequest, folder: Path) -> Ground:
    server: SlurmServer = request.getfixturevalue("slurm_server")
    site = SlurmSite(server, folder)
    states = "--states=PENDING,CONFIGURING,RUNNING,SUSPENDED,COMPLETING"
    return Ground(
        site,
        lambda: len(server.run("squeue", "--noheader", "--array", states, "--format=%i").splitlines()),
    )


def _htcondor(request: pytest.FixtureRequest, folder: Path) -> Ground:
    pool: HtcondorPool = request.getfixturevalue("htcondor_pool")
    site = HtcondorSite(pool, folder)
    alive = ("-constraint", "JobStatus =!= 3 && JobStatus =!= 4")
    return Ground(site, lambda: len(pool.ask("condor_q", "-all", *alive, "-af", "ClusterId").split()))


GROUNDS = {"slurm": _slurm, "htcondor": _htcondor}


@pytest.fixture
def make_stage(tmp_path: Path, redis_server: RedisServer) -> Iterator[StageMaker]:
    redis_server.flush()
    with stages(tmp_path, redis_server.url) as make:
        yield make


@pytest.fixture(params=GROUNDS)
def ground(request: pytest.FixtureRequest, tmp_path: Path) -> Ground:
    """Each in turn; no pilot of others is there."""
    found = GROUNDS[request.param](request, tmp_path)
    eventually(lambda: found.living() == 0, within=60)
    return found


@pytest.mark.timeout(900)
def test_a_consumer_that_dies_before_it_commits_neither_orphans_nor_doubles_a_pilot(
    ground: Ground, make_stage: StageMaker, mariadb_server: MariaDbServer, tmp_path: Path, seed: int
) -> None:
    stage = make_stage(queue="pilots", database_url=mariadb_server.new_database(), message_attempts=1_000)
    fuse = tmp_path / "fuse"
    options = {
        "of": ground.site.kind,
        "options": dict(ground.site.options),
        "fuse": str(fuse),
        "notes": str(ground.notes),
    }
    queue = {
        "name": "queue",
        "batch_system": "killing",
        "pilot": "noting",
        "options": options,
        "memory": 64,
        "disk": 64,
    }
    (queue_id,) = declare_queues(stage.database, stage.folder, queue)
    chance = random.Random(seed)
    try:
        for _ in range(KILLS):
            want(stage, queue_id, chance)
            die(stage, queue_id, fuse, chance.randint(1, MOST_ANSWERS))
            assert ground.living() <= CAP
            lease_ends(stage)
        finish(stage, queue_id, ground)
    finally:
        left = open_kind(ground.site.kind, ground.site.options, stage.folder)
        left.remove([row.tag for row in living_rows(stage)])
    eventually(lambda: ground.living() == 0, within=60, every=0.5)
    doubled = [tag for tag, times in Counter(started(ground)).items() if times > 1]
    assert doubled == []


def started(ground: Ground) -> list[str]:
    """The tags of pilots that began to run, once for each time."""
    return ground.notes.read_text().split() if ground.notes.exists() else []


def want(stage: Stage, queue_id: int, chance: random.Random) -> None:
    """As a plan: some that are there are not wanted any more, and new ones fill the cap."""
    live = living_rows(stage)
    unwanted = [row.id for row in live if row.state in PILOT_PENDING and chance.random() < 0.3]
    no_more = update(pilots).where(pilots.c.id.in_(unwanted)).values(remove_requested=True)
    stage.database.transact(lambda tx: tx.run(no_more))
    request_pilots(stage.database, [queue_id], CAP - len(live))


def die(stage: Stage, queue_id: int, fuse: Path, answers: int) -> None:
    """A consumer carries the queue out, round after round, until it has had so many answers."""
    process = stage.start()
    fuse.write_text(str(answers))

    def dead() -> bool:
        carry_on(stage, queue_id)
        return process.poll() is not None

    eventually(dead, within=60, every=0.1)


def carry_on(stage: Stage, queue_id: int) -> None:
    """Another round, unless one is under way; a queue that backs off waits no longer."""
    (queue,) = queue_rows(stage.database)
    if queue.lease_until is None or queue.lease_until <= stage.database.now():
        stage.database.transact(lambda tx: tx.run(update(site_queues).values(backoff_until=None)))
        stage.publish(*about_ids(SiteQueuesDue, [queue_id], now=stage.database.now()))


def lease_ends(stage: Stage) -> None:
    """The time has passed for which the dead consumer had the queue."""
    past = stage.database.now() - timedelta(seconds=1)
    stage.database.transact(lambda tx: tx.run(update(site_queues).values(lease_until=past)))


def living_rows(stage: Stage) -> list[Row[Any]]:
    return [row for row in pilot_rows(stage.database) if row.state not in PILOT_FINAL]


def finish(stage: Stage, queue_id: int, ground: Ground) -> None:
    """Without more deaths, rows and batch system agree, and both come to an end."""
    stage.start()

    def settled() -> bool:
        carry_on(stage, queue_id)
        rows = living_rows(stage)
        return all(row.state == PilotState.QUEUED and row.runs_since and not row.remove_requested for row in rows)

    eventually(settled, within=60, every=0.2)
    rows = living_rows(stage)
    assert 0 < len(rows) <= CAP
    assert ground.living() == len(rows)
    eventually(lambda: {row.tag for row in rows} <= set(started(ground)))
    stage.database.transact(lambda tx: tx.run(update(pilots).values(remove_requested=True)))

    def over() -> bool:
        carry_on(stage, queue_id)
        return not living_rows(stage)

    eventually(over, within=60, every=0.2)
    assert {row.state for row in pilot_rows(stage.database)} == {PilotState.REMOVED}
