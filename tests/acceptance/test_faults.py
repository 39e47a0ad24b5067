"""kill -9 of anything, and a broker that loses everything, in the middle of a campaign: every job ends `done`.

Each fault strikes at a time drawn from a printed seed; a ledger outside the system says what really ran.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from threading import Event

import pytest
import redis
from sqlalchemy import Select, select

from pipeline.settings import Settings
from pipeline.store.database import Database
from pipeline.store.tables import files, job_events, jobs, replicas
from schemas.states import JOB_TRANSITIONS, JobState
from tests.acceptance.system import System, ended, ledger_campaign, moment, penstock_up, started_twice
from tests.servers import MariaDbServer
from tests.waiting import eventually

JOBS = 200
SEED = int(os.environ.get("PENSTOCK_TEST_SEED", "20261121"))


def _flush(system: System) -> list[int]:
    socket = Settings(data_dir=system.data_dir).redis_socket()
    with redis.Redis(unix_socket_path=str(socket)) as client:
        client.flushall()
    return [1]


def _strike(kind: str) -> Callable[[System], list[int]]:
    return lambda system: system.kill(kind)


FAULTS: dict[str, Callable[[System], list[int]]] = {
    "every consumer is killed": _strike("consumer"),
    "a pool's workers are killed": _strike("worker"),
    "the API is killed": _strike("api"),
    "the triggers are killed": _strike("triggers"),
    "the pilots are killed": _strike("pilot"),
    "the broker loses everything": _flush,
}


@pytest.mark.timeout(400)
@pytest.mark.parametrize("fault", FAULTS)
def test_all_jobs_end_done_when(fault: str, mariadb_server: MariaDbServer, tmp_path: Path) -> None:
    url = mariadb_server.new_database()
    seed = SEED + sorted(FAULTS).index(fault)
    with penstock_up(tmp_path, {"PENSTOCK_DATABASE_URL": url}) as system:
        campaign_id = system.submit(ledger_campaign(tmp_path, JOBS))
        ledger = tmp_path / "ledger.txt"
        eventually(lambda: ledger.exists() and "end" in ledger.read_text(), within=60)
        Event().wait(moment(seed, 0.0, 6.0))  # faults come at any moment, this one at that of the seed
        assert FAULTS[fault](system), "nothing was there to be hit"
        eventually(lambda: ended(system, campaign_id), within=240, every=1.0)
        shown = system.json("campaigns", "show", str(campaign_id))
        assert shown["state"] == "done", json.dumps(shown, indent=1) + system.logs()
    database = Database(url)
    _check_outcome(database, campaign_id, tmp_path)
    database.close()
    mariadb_server.drop_database(url)


def _check_outcome(database: Database, campaign_id: int, folder: Path) -> None:
    attempts = {row.id: row.attempt for row in database.transact(lambda tx: tx.rows(_jobs(campaign_id)))}
    assert len(attempts) == JOBS
    assert started_twice(folder) == []
    _check_files(database, attempts, folder)
    query = select(job_events.c.from_state, job_events.c.to_state).distinct()
    for row in database.transact(lambda tx: tx.rows(query)):
        assert row.from_state is None or JobState(row.to_state) in JOB_TRANSITIONS[JobState(row.from_state)]


def _jobs(campaign_id: int) -> Select[tuple[int, int]]:
    return select(jobs.c.id, jobs.c.attempt).where(jobs.c.campaign_id == campaign_id, jobs.c.state == JobState.DONE)


def _check_files(database: Database, attempts: dict[int, int], folder: Path) -> None:
    """The registered output of each job is its winning attempt's, byte for byte."""
    columns = (files.c.job_id, files.c.attempt, files.c.adler32, replicas.c.path, replicas.c.state)
    rows = database.transact(lambda tx: tx.rows(select(*columns).join(replicas, replicas.c.file_id == files.c.id)))
    assert {row.job_id: row.attempt for row in rows} == attempts
    assert len(rows) == JOBS
    for row in rows:
        content = (folder / "data" / "storage" / row.path).read_bytes()
        assert content == f"result of {row.job_id} in attempt {row.attempt}\n".encode()
        assert f"{zlib.adler32(content):08x}" == row.adler32
        assert row.state == "usable"
