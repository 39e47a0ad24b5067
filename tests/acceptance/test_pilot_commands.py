"""Operators drain and kill real pilots that run jobs, read what they wrote, and order some by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.system import System, ended, ledger_campaign, penstock_up
from tests.waiting import eventually

WAITING = 'echo "start $PENSTOCK_ATTEMPT" >> "$LEDGER"; while [ ! -e "$LEDGER.go" ]; do sleep 0.1; done'


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with penstock_up(tmp_path_factory.mktemp("up")) as running:
        yield running


@pytest.fixture
def system(shared: System) -> System:
    """Without what the test before left: its pilots have been drained."""
    for name in ("ledger.txt", "ledger.txt.go"):
        (shared.folder / name).unlink(missing_ok=True)
    return shared


def one_long_job(system: System) -> tuple[int, int]:
    """A job that waits until it may end: its campaign, and the pilot that runs it."""
    campaign = ledger_campaign(system.folder, 1)
    campaign["steps"][0] |= {"command": ["/bin/sh", "-c", WAITING], "outputs": []}
    campaign_id = system.submit(campaign)
    eventually(lambda: attempts(system.folder) == 1, within=60.0)
    eventually(lambda: job(system, campaign_id)["state"] == "running", within=20.0)
    return campaign_id, job(system, campaign_id)["pilot_id"]


def attempts(folder: Path) -> int:
    """How often the job has begun."""
    ledger = folder / "ledger.txt"
    return len(ledger.read_text().splitlines()) if ledger.exists() else 0


def job(system: System, campaign_id: int) -> Any:
    """The campaign's one job."""
    (found,) = system.get(f"/v1/jobs?campaign={campaign_id}")["items"]
    return system.get(f"/v1/jobs/{found['id']}")


def pilot(system: System, pilot_id: int) -> Any:
    return system.get(f"/v1/pilots/{pilot_id}")


def test_a_drained_pilot_ends_after_its_job(system: System) -> None:
    campaign_id, pilot_id = one_long_job(system)
    told = system.run("pilots", "drain", "--site", "LOCAL", "--state", "running", "--reason", "cooling", "--yes")
    assert "active drained" in told
    drains = system.json("pilots", "show", str(pilot_id))
    assert (drains["draining"], [one["campaign_id"] for one in drains["jobs_at_hand"]]) == (True, [campaign_id])
    assert drains["because"][0].endswith("cooling: it takes no more jobs, and ends after the one that it has")
    assert not ended(system, campaign_id)
    (system.folder / "ledger.txt.go").touch()
    eventually(lambda: ended(system, campaign_id), within=30.0)
    assert (job(system, campaign_id)["state"], job(system, campaign_id)["attempt"]) == ("done", 1)
    eventually(lambda: pilot(system, pilot_id)["state"] == "done", within=30.0)
    assert pilot(system, pilot_id)["reason"].endswith("cooling")


def test_a_pilot_that_is_killed_now_loses_its_job_which_runs_again_elsewhere(system: System) -> None:
    campaign_id, pilot_id = one_long_job(system)
    assert system.run("pilots", "kill", str(pilot_id), "--now", "--yes") == "1 pilot (1 active ended)\n"
    eventually(lambda: attempts(system.folder) == 2, within=60.0)
    again = job(system, campaign_id)
    assert (again["attempt"], again["infrastructure_losses"], again["payload_failures"]) == (2, 1, 0)
    assert again["pilot_id"] != pilot_id
    killed = pilot(system, pilot_id)
    assert killed["ended_at"] is not None
    assert killed["reason"].startswith("killed by ")
    (system.folder / "ledger.txt.go").touch()
    eventually(lambda: ended(system, campaign_id), within=30.0)
    assert job(system, campaign_id)["state"] == "done"
    system.run("pilots", "kill", "--site", "LOCAL", "--now", "--yes")
    eventually(lambda: system.pids("pilot") == [], within=30.0)


def test_pilots_that_are_ordered_by_hand_come_and_are_heard(system: System) -> None:
    system.run("pilots", "submit", "LOCAL/local", "3", expect=2)
    made = system.run("pilots", "submit", "LOCAL/local", "1")
    pilot_id = int(made.rpartition(" ")[2])
    eventually(lambda: pilot(system, pilot_id)["started_at"] is not None, within=60.0)
    log = system.json("pilots", "log", str(pilot_id), "--fresh")
    assert "enrolled" in log["stdout"] + log["stderr"]
