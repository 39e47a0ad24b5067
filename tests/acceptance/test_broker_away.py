"""Processes that start without a broker, lose it again when it freezes, and are stopped meanwhile."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from pipeline.store.database import Database
from pipeline.store.instances import list_instances
from tests.acceptance.system import SITES, System, ledger_campaign
from tests.servers import RedisServer, free_port, running_redis
from tests.waiting import eventually

QUEUES = ("optimisation", "upkeep")
WELL_BELOW_A_TIME_OUT = 5.0
"""Seconds: a call to a frozen broker takes ten."""


@pytest.fixture
def broker() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.fixture
def system(tmp_path: Path, broker: RedisServer) -> Iterator[System]:
    port = free_port()
    own = {"PENSTOCK_API_PORT": str(port), "PENSTOCK_API_URL": f"http://127.0.0.1:{port}"}
    made = System(tmp_path, {**own, "PENSTOCK_BROKER_URL": broker.url})
    made.run("db", "upgrade")
    made.variables["PENSTOCK_TOKEN"] = made.run("tokens", "bootstrap").strip()
    yield made
    made.end()


def test_processes_outlive_a_broker_that_is_away_and_one_that_is_frozen(system: System, broker: RedisServer) -> None:
    broker.kill()
    for arguments in (("api",), ("consume", *QUEUES), ("triggers",)):
        system.start(*arguments)
    urls = eventually(lambda: _health(system), within=120)
    eventually(lambda: all(_complains(url) for url in urls.values()), within=30)
    assert {_status(f"{url}/livez") for url in urls.values()} == {200}
    assert (_status(f"{urls['consumer']}/readyz"), _status(f"{urls['triggers']}/readyz")) == (503, 503)

    broker.start()
    eventually(lambda: not any(_complains(url) for url in urls.values()), within=30)
    system.apply_sites(SITES)

    broker.suspend()
    eventually(lambda: _complains(urls["triggers"]), within=40)
    system.submit(ledger_campaign(system.folder, 3))
    begun = time.monotonic()
    for number in range(3):
        _submit(system, number)
    assert time.monotonic() - begun < WELL_BELOW_A_TIME_OUT
    assert {_status(f"{url}/livez") for url in urls.values()} == {200}
    begun = time.monotonic()
    for process in system.processes:
        process.terminate()
    assert [process.wait(30) for process in system.processes] == [0, 0, 0]
    assert time.monotonic() - begun < WELL_BELOW_A_TIME_OUT
    broker.resume()

    assert _said(system, "api", "broker_back") == ["api"]
    assert _said(system, "triggers", "broker_lost") == ["triggers", "triggers"]
    assert _said(system, "triggers", "broker_back") == ["triggers"]
    assert sorted(_said(system, "consume", "broker_back")) == sorted(QUEUES), "once per queue and outage"
    assert set(_said(system, "consume", "broker_lost")) == set(QUEUES)
    assert max(map(_said(system, "consume", "broker_lost").count, QUEUES)) <= 2


def _health(system: System) -> dict[str, str]:
    """Where each process tells of itself, once all three do."""
    database = Database(f"sqlite:///{system.data_dir / 'penstock.db'}")
    rows = {row.kind: row.health_url or "" for row in database.read(list_instances)}
    database.close()
    return rows if set(rows) == {"api", "consumer", "triggers"} else {}


def _complains(url: str) -> bool:
    return any("broker" in complaint for complaint in httpx.get(f"{url}/readyz", timeout=5).json()["complaints"])


def _status(url: str) -> int:
    return httpx.get(url, timeout=5).status_code


def _submit(system: System, number: int) -> None:
    body = {"description": ledger_campaign(system.folder, 1 + number)}
    token = {"Authorization": f"Bearer {system.variables['PENSTOCK_TOKEN']}"}
    url = f"{system.variables['PENSTOCK_API_URL']}/v1/campaigns"
    assert httpx.post(url, json=body, headers=token, timeout=WELL_BELOW_A_TIME_OUT).status_code == 201


def _said(system: System, command: str, event: str) -> list[str]:
    """Whose connections a process spoke of in these log lines."""
    (log,) = system.folder.glob(f"{command}-*.log")
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    return [line["labels"]["queue"] for line in lines if line["message"] == event]
