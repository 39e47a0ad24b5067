"""MariaDB is killed and started again in the middle of a campaign: everything goes on, and nothing happens twice."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from sqlalchemy import select

from pipeline.store.database import Database
from pipeline.store.tables import job_events, jobs
from schemas.states import JOB_TRANSITIONS, JobState
from tests.acceptance.system import ended, ledger_campaign, penstock_apart, started_twice
from tests.servers import MariaDbServer, RedisServer, running_mariadb
from tests.waiting import eventually

JOBS = 80


@pytest.fixture
def mariadb() -> Iterator[MariaDbServer]:
    """One of its own: others would notice. What it has committed is with the operating system, and outlives it."""
    with running_mariadb() as server:
        yield server


def test_a_campaign_goes_on_when_the_database_is_killed_and_started_again(
    mariadb: MariaDbServer, redis_server: RedisServer, tmp_path: Path
) -> None:
    redis_server.flush()
    url = mariadb.new_database()
    ledger = tmp_path / "ledger.txt"
    with penstock_apart(tmp_path, {"PENSTOCK_DATABASE_URL": url, "PENSTOCK_BROKER_URL": redis_server.url}) as system:
        system.apply_sites()
        campaign_id = system.submit(ledger_campaign(tmp_path, JOBS))
        eventually(lambda: ledger.exists() and ledger.read_text().count("end") >= JOBS // 8, within=90)
        mariadb.kill()
        mariadb.start()
        assert "end" in ledger.read_text()
        assert ledger.read_text().count("end") < JOBS, "it was hit in the middle"
        eventually(lambda: ended(system, campaign_id), within=180, every=0.5)
        shown = system.json("campaigns", "show", str(campaign_id))
        still = [process.poll() for process in system.processes]
        kinds = sorted(row["kind"] for row in system.json("instances") if row["silence"] < 5)
    assert shown["state"] == "done", json.dumps(shown, indent=1) + system.logs()
    assert (still, kinds) == ([None, None, None], ["api", "consumer", "triggers"])
    assert started_twice(tmp_path) == []
    database = Database(url)
    _check_histories(database, campaign_id)
    database.close()


def _check_histories(database: Database, campaign_id: int) -> None:
    """Each job's events are one unbroken chain of allowed transitions, which ends where the job is."""
    query = select(jobs.c.id, jobs.c.state, jobs.c.attempt).where(jobs.c.campaign_id == campaign_id)
    found = {row.id: row for row in database.read(lambda tx: tx.rows(query))}
    assert len(found) == JOBS
    assert {row.state for row in found.values()} == {JobState.DONE}
    chains: defaultdict[int, list[tuple[str | None, str, int]]] = defaultdict(list)
    columns = (job_events.c.job_id, job_events.c.from_state, job_events.c.to_state, job_events.c.attempt)
    for row in database.read(lambda tx: tx.rows(select(*columns).order_by(job_events.c.id))):
        chains[row.job_id].append((row.from_state, row.to_state, row.attempt))
    for job_id, row in found.items():
        chain = chains[job_id]
        assert chain[0][:2] == (None, "received")
        for (_, before, _), (after, to, _) in pairwise(chain):
            assert before == after, f"job {job_id}: {chain}"
            assert JobState(to) in JOB_TRANSITIONS[JobState(before)]
        assert chain[-1][1:] == (row.state, row.attempt)
        matched = [attempt for _, to, attempt in chain if to == "matched"]
        assert matched == sorted(set(matched)), f"an attempt was assigned twice: {chain}"
