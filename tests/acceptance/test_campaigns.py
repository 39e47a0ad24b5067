"""Campaigns through separate processes on MariaDB and Redis, and what may come between."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from statistics import median
from threading import Event
from typing import Any

import pytest
from sqlalchemy import exists, func, select

from pipeline.store.database import Database
from pipeline.store.tables import jobs
from schemas.states import JobState
from tests.acceptance.system import SITES, System, ended, ledger_campaign, penstock_apart
from tests.servers import MariaDbServer, RedisServer
from tests.waiting import eventually

TIMES = 3
"""Submissions before, during and after, of which the median counts: the machine may have other work, too."""
OUTAGE = 20.0
"""Seconds without an API: three times the pilots' lease, and the design's 30 minutes scaled down."""


@pytest.fixture
def servers(mariadb_server: MariaDbServer, redis_server: RedisServer) -> Iterator[dict[str, str]]:
    redis_server.flush()
    url = mariadb_server.new_database()
    yield {"PENSTOCK_DATABASE_URL": url, "PENSTOCK_BROKER_URL": redis_server.url}
    mariadb_server.drop_database(url)


def _states(database: Database, campaign_id: int) -> dict[str, int]:
    query = select(jobs.c.state, func.count().label("many")).where(jobs.c.campaign_id == campaign_id)
    return {row.state: row.many for row in database.read(lambda tx: tx.rows(query.group_by(jobs.c.state)))}


@pytest.mark.alone
def test_an_api_that_is_away_costs_no_attempt(servers: dict[str, str], tmp_path: Path) -> None:
    with penstock_apart(tmp_path, servers) as system:
        system.apply_sites()
        campaign_id = system.submit(ledger_campaign(tmp_path, 40))
        eventually(lambda: "end" in _read(tmp_path / "ledger.txt"), within=60)
        api = system.processes[0]
        api.terminate()
        assert api.wait(10) == 0
        Event().wait(OUTAGE)  # time has to pass: the lease of the pilots runs out without the API
        system.start("api")
        eventually(lambda: ended(system, campaign_id), within=120, every=0.5)
        found = system.json("jobs", "list", "--campaign", str(campaign_id), "--limit", "100")
        history = [system.run("jobs", "show", str(job["id"])) for job in found if job["attempt"] > 1]
    assert {(job["state"], job["attempt"]) for job in found} == {("done", 1)}, history


def test_a_job_that_no_site_can_run_is_held_until_one_appears(servers: dict[str, str], tmp_path: Path) -> None:
    wide = ledger_campaign(tmp_path, 1)
    wide["steps"][0]["requirements"]["tags"] = ["cvmfs"]
    with penstock_apart(tmp_path, servers) as system:
        system.apply_sites()
        campaign_id = system.submit(wide)
        eventually(lambda: _only_job(system)["state"] == "held", within=30)
        assert "lacks cvmfs" in _only_job(system)["reason"]
        tagged: dict[str, Any] = deepcopy(SITES)
        tagged["sites"][0]["queues"][0]["tags"] = ["cvmfs"]
        system.apply_sites(tagged)
        eventually(lambda: ended(system, campaign_id), within=60, every=0.5)
        assert _only_job(system)["state"] == "done"


@pytest.mark.alone
def test_ten_jobs_do_not_wait_for_a_hundred_thousand_of_another_campaign(
    servers: dict[str, str], tmp_path: Path
) -> None:
    database = Database(servers["PENSTOCK_DATABASE_URL"])
    with penstock_apart(tmp_path, servers) as system:
        nobody: dict[str, Any] = deepcopy(SITES)
        nobody["sites"][0]["queues"][0]["max_pilots"] = 0
        system.apply_sites(nobody)
        alone = [_seconds_until_waiting(system, database) for _ in range(TIMES)]
        large = system.submit(ledger_campaign(tmp_path, 100_000))
        behind = [_seconds_until_waiting(system, database) for _ in range(TIMES)]
        still = exists().where(jobs.c.campaign_id == large, jobs.c.state == JobState.RECEIVED)
        assert database.read(lambda tx: tx.scalar(select(still))), "the large campaign was still being dealt with"
        system.run("campaigns", "cancel", str(large))
        alone += [_seconds_until_waiting(system, database) for _ in range(TIMES)]
    database.close()
    print(f"ten jobs, seconds: alone {alone}, behind 100,000 {behind}")
    assert median(behind) <= 2 * median(alone)


def test_stock_rq_sees_the_depth_that_penstock_sees(servers: dict[str, str], tmp_path: Path) -> None:
    system = System(tmp_path, servers)
    system.run("db", "upgrade")
    for number in range(1, 4):
        system.run("enqueue", "optimisation", "JobsReceived", "--ids", str(number))
    ours = {row["queue"]: row["ready"] for row in system.json("queues")}
    rq = [str(Path(sys.executable).with_name("rq")), "info", "--raw", "--only-queues"]
    said = subprocess.run(
        [*rq, "--url", servers["PENSTOCK_BROKER_URL"]], check=True, capture_output=True, text=True
    ).stdout
    assert "queue optimisation 3" in said
    assert ours["optimisation"] == 3


def _seconds_until_waiting(system: System, database: Database) -> float:
    """From `penstock submit` until all ten jobs wait, as their owner would see it."""
    begun = time.monotonic()
    campaign_id = system.submit(ledger_campaign(system.folder, 10))
    eventually(lambda: _states(database, campaign_id) == {"waiting": 10}, within=60, every=0.01)
    return round(time.monotonic() - begun, 2)


def _only_job(system: System) -> dict[str, Any]:
    (job,) = system.get("/v1/jobs")["items"]
    return dict(job)


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""
