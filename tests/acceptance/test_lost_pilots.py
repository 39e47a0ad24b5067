"""Pilots that die with jobs at hand, and pilots that were thought dead, on MariaDB and Redis."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.acceptance.system import SITES, System, ended, ledger_campaign, penstock_apart
from tests.servers import MariaDbServer, RedisServer
from tests.waiting import eventually

WAITING = 'echo "$$ $PENSTOCK_ATTEMPT" >> "$LEDGER"; (trap "" TERM; while [ ! -e "$LEDGER.go" ]; do sleep 0.1; done)'


@pytest.fixture
def system(mariadb_server: MariaDbServer, redis_server: RedisServer, tmp_path: Path) -> Iterator[System]:
    """Two pilots of one core each at the most."""
    redis_server.flush()
    url = mariadb_server.new_database()
    servers = {"PENSTOCK_DATABASE_URL": url, "PENSTOCK_BROKER_URL": redis_server.url}
    with penstock_apart(tmp_path, servers) as running:
        sites: dict[str, Any] = deepcopy(SITES)
        sites["sites"][0]["queues"][0]["cores"] = 1
        running.apply_sites(sites)
        yield running
    mariadb_server.drop_database(url)


def one_long_job(system: System) -> int:
    """A job that notes its process and attempt, and waits until it may end."""
    campaign = ledger_campaign(system.folder, 1)
    campaign["steps"][0] |= {"command": ["/bin/sh", "-c", WAITING], "outputs": []}
    return system.submit(campaign)


def noted(system: System) -> list[tuple[int, int]]:
    """The process and the attempt of each start."""
    ledger = system.folder / "ledger.txt"
    lines = ledger.read_text().splitlines() if ledger.exists() else []
    return [(int(pid), int(attempt)) for pid, attempt in map(str.split, lines)]


def pilot_of(process: int) -> int:
    """The pilot that runs a payload: the highest of its Python processes, since each payload has a guardian below."""
    above = psutil.Process(process).parents()
    return [one.pid for one in above if "python" in one.name() and "penstock-pilot" in str(one.cmdline())][-1]


def pilot_logs(system: System) -> str:
    return "".join(path.read_text() for path in (system.data_dir / "local-batch").glob("*/*/stderr"))


def test_the_jobs_of_a_pilot_killed_by_9_end_with_it_and_run_again_elsewhere(system: System) -> None:
    campaign_id = one_long_job(system)
    first, _ = eventually(lambda: noted(system), within=60)[0]
    children = [first, *(child.pid for child in psutil.Process(first).children(recursive=True))]
    os.kill(pilot_of(first), signal.SIGKILL)
    eventually(lambda: not any(map(psutil.pid_exists, children)))
    attempt = eventually(lambda: noted(system)[1:], within=60)[0][1]
    assert attempt == 2
    (system.folder / "ledger.txt.go").touch()
    eventually(lambda: ended(system, campaign_id), within=60)
    (job,) = system.json("jobs", "list")
    assert (job["state"], job["attempt"]) == ("done", 2)


def test_a_pilot_that_comes_back_from_the_dead_is_told_that_its_attempt_is_not_its_own_any_more(system: System) -> None:
    campaign_id = one_long_job(system)
    first, _ = eventually(lambda: noted(system), within=60)[0]
    frozen = pilot_of(first)
    os.kill(frozen, signal.SIGSTOP)  # as if its node had lost its network
    attempt = eventually(lambda: noted(system)[1:], within=60)[0][1]
    assert attempt == 2
    (system.folder / "ledger.txt.go").touch()  # both end now: the first one's pilot can't say so yet
    eventually(lambda: ended(system, campaign_id), within=60)
    os.kill(frozen, signal.SIGCONT)
    eventually(lambda: "report_refused" in pilot_logs(system) or "superseded" in pilot_logs(system), within=30)
    (job,) = system.json("jobs", "list")
    assert (job["state"], job["attempt"]) == ("done", 2)
    eventually(lambda: not psutil.pid_exists(first))
