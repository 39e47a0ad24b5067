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

QUEUES = ("data", "optimisation")
CONNECTIONS = {"api": ["api"], "consume": list(QUEUES), "triggers": ["triggers"]}
TIME_OUT = 240
"""Seconds that the driver waits for a frozen broker here; whatever is done in less did not wait for it."""


@pytest.fixture
def broker() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.fixture
def system(tmp_path: Path, broker: RedisServer) -> Iterator[System]:
    made = System(tmp_path, {"PENSTOCK_BROKER_URL": f"{broker.url}?socket_timeout={TIME_OUT}"})
    made.run("db", "upgrade")
    made.variables["PENSTOCK_TOKEN"] = made.run("tokens", "bootstrap").strip()
    port = free_port()
    made.variables |= {"PENSTOCK_API_PORT": str(port), "PENSTOCK_API_URL": f"http://127.0.0.1:{port}"}
    yield made
    made.end()


def test_processes_outlive_a_broker_that_is_away_and_one_that_is_frozen(system: System, broker: RedisServer) -> None:
    broker.kill()
    for arguments in (("api",), ("consume", *QUEUES), ("triggers",)):
        system.start(*arguments)
    urls = eventually(lambda: _health(system), within=120)
    eventually(lambda: _said(system, "broker_lost") == CONNECTIONS, within=60)
    assert [url for url in urls.values() if not _complains(url)] == []
    assert {_status(f"{url}/livez") for url in urls.values()} == {200}
    assert (_status(f"{urls['consumer']}/readyz"), _status(f"{urls['triggers']}/readyz")) == (503, 503)

    broker.start()
    eventually(lambda: _said(system, "broker_back") == CONNECTIONS, within=60)
    assert [url for url in urls.values() if _complains(url)] == []
    system.apply_sites(SITES)

    broker.suspend()
    begun = time.monotonic()
    eventually(lambda: _complains(urls["api"]), within=60)
    for number in range(3):
        _submit(system, number)
    assert {_status(f"{url}/livez") for url in urls.values()} == {200}
    for process in system.processes:
        process.terminate()
    assert [process.wait(60) for process in system.processes] == [0, 0, 0]
    assert time.monotonic() - begun < TIME_OUT
    broker.resume()

    assert _said(system, "broker_back") == CONNECTIONS
    assert _said(system, "broker_lost") == CONNECTIONS


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
    assert httpx.post(url, json=body, headers=token, timeout=30).status_code == 201


def _said(system: System, event: str) -> dict[str, list[str]]:
    """Whose connections each process spoke of in these log lines."""
    return {command: sorted(_spoken_of(next(system.folder.glob(f"{command}-*.log")), event)) for command in CONNECTIONS}


def _spoken_of(log: Path, event: str) -> Iterator[str]:
    for line in log.read_text().splitlines():
        if line.startswith("{") and line.endswith("}") and json.loads(line)["message"] == event:
            yield json.loads(line)["labels"]["queue"]
