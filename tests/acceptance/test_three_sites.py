"""The demonstration's campaign on Slurm, ARC and HTCondor at once, by pilots that are submitted as jobs want them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.acceptance.system import System, ended, penstock_apart
from tests.arex import ArexServer
from tests.htcondor import HtcondorPool, running_htcondor
from tests.servers import MariaDbServer, RedisServer, server_folder
from tests.slurm import SlurmServer
from tests.waiting import eventually

EXAMPLE = Path(__file__).parents[2] / "examples" / "zmumu"
CYCLE = 15.0
"""Seconds between two cycles of provisioning."""
SITES = ("SLURM", "ARC", "HTCONDOR")
TOLD = (("pilots", "list"), ("pilots", "plan"), ("jobs", "list"))
_LIVE = "JobStatus =!= 3 && JobStatus =!= 4"
_ARC_ENDED = ("FINISHED", "DELETED")
Shown = Callable[[], int]
"""How many jobs a batch system's own command shows."""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the nodes of all three sites see: their accounts are different ones."""
    with server_folder("sites") as made:
        made.chmod(0o755)
        for site in SITES:
            (made / f"{site}-disk").mkdir()
            (made / f"{site}-disk").chmod(0o1777)
        yield made


@pytest.fixture
def pool(folder: Path) -> Iterator[HtcondorPool]:
    with running_htcondor(folders=[folder]) as running:
        yield running


@pytest.fixture
def shown(slurm_server: SlurmServer, arex_server: ArexServer, pool: HtcondorPool) -> Mapping[str, Shown]:
    """By site."""
    return {
        "SLURM": lambda: len(slurm_server.run("squeue", "--noheader", "--array").splitlines()),
        "ARC": lambda: len([state for state in _states(arex_server) if state not in _ARC_ENDED]),
        "HTCONDOR": lambda: len(pool.ask("condor_q", "-allusers", "-const", _LIVE, "-af", "ClusterId").splitlines()),
    }


@pytest.fixture
def queues(slurm_server: SlurmServer, arex_server: ArexServer, pool: HtcondorPool, folder: Path) -> dict[str, Any]:
    """The site queues' own words."""
    return {
        "SLURM": {
            "batch_system": "slurm",
            "options": {"conf": str(slurm_server.conf), "partition": "main", "folder": str(folder / "output")},
            "tags": ["matplotlib"],
        },
        "ARC": {"batch_system": "arc", "options": arex_options(arex_server)},
        "HTCONDOR": {"batch_system": "htcondor", "options": dict(pool.options)},
    }


def _states(server: ArexServer) -> list[str]:
    """Of every job that arcctl lists."""
    words = ["arcctl", "-c", str(server.folder / "arc.conf"), "job", "list", "-l"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    return [line.split()[1] for line in done.stdout.splitlines()]


def arex_options(server: ArexServer) -> dict[str, Any]:
    return {"url": server.url, "ca_dir": str(server.ca_dir), "proxy_file": str(server.proxy_file)}


def sites_file(queues: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    disks = [f"{site}-disk" for site in queues]  # the first of a site's takes its outputs; it reads them all
    room = {"cores": 1, "memory": 1024, "disk": 1024, "wall_time": 3600, "max_pilots": 2, "max_pending_pilots": 2}
    return {
        "storages": [{"name": disk, "url": f"file://{folder / disk}"} for disk in disks],
        "sites": [
            {
                "name": site,
                "storages": [f"{site}-disk", *(disk for disk in disks if disk != f"{site}-disk")],
                "queues": [{"name": "queue", **room, **words}],
            }
            for site, words in queues.items()
        ],
    }


def campaign() -> dict[str, Any]:
    """The demonstration's, its jobs three seconds longer; the plot is made where matplotlib is."""
    said: dict[str, Any] = yaml.safe_load((EXAMPLE / "campaign.yaml").read_text())
    analyse, merge = said["steps"]
    analyse["command"] = ["/bin/sh", "-c", 'sleep 3; exec "$@"', "sh", *analyse["command"]]
    merge["command"] = [sys.executable, *merge["command"][1:]]
    merge["requirements"]["tags"] = ["matplotlib"]
    return said


@pytest.fixture
def system(
    mariadb_server: MariaDbServer, redis_server: RedisServer, queues: dict[str, Any], folder: Path, tmp_path: Path
) -> Iterator[System]:
    redis_server.flush()
    url = mariadb_server.new_database()
    variables = {
        "PENSTOCK_DATABASE_URL": url,
        "PENSTOCK_BROKER_URL": redis_server.url,
        "PENSTOCK_PILOT_IDLE_LIMIT": "600",
        "PENSTOCK_SCHEDULES": json.dumps({"provisioning": f"* * * * * */{CYCLE:g}", "reconcile": "* * * * * */2"}),
    }
    with penstock_apart(tmp_path, variables) as running:
        running.apply_sites(sites_file(queues, folder))
        yield running
    mariadb_server.drop_database(url)


@pytest.mark.timeout(600)
def test_the_campaign_runs_on_three_real_sites_at_once_and_the_pilots_go_with_the_work(
    system: System, shown: Mapping[str, Shown], tmp_path: Path
) -> None:
    for name in ("dimuon.py", "merge.py", "Zmumu_Run2011A.csv"):
        (tmp_path / name).symlink_to(EXAMPLE / name)
    campaign_id = system.submit(campaign())
    most = dict.fromkeys(SITES, 0)
    with ExitStack() as stack:
        stack.callback(lambda: print(*(system.run(*words) for words in TOLD), system.logs()))
        eventually(lambda: _watched(most, shown) or ended(system, campaign_id), within=240, every=1.0)
        over = time.time()
        assert system.get(f"/v1/campaigns/{campaign_id}")["state"] == "done"
        third = (over // CYCLE + 3) * CYCLE  # cycles begin with the minute: the first two after the end are before it
        eventually(lambda: not any(count() for count in shown.values()), within=third - over, every=0.5)
        print(f"no pilot is left {time.time() - over:.1f} s after the work; cycles of {CYCLE:g} s; at most {most}")
    assert all(0 < seen <= 2 for seen in most.values()), most
    found = system.json("jobs", "list", "--campaign", str(campaign_id), "--limit", "100")
    assert {(job["state"], job["attempt"]) for job in found} == {("done", 1)}
    assert {job["site"] for job in found} == set(SITES)
    merged = next(job for job in found if job["step"] == "merge")
    system.run("jobs", "output", str(merged["id"]), "--to", str(tmp_path / "result"))
    assert json.loads((tmp_path / "result" / "zmumu.json").read_text())["events"] == 10583


def _watched(most: dict[str, int], shown: Mapping[str, Shown]) -> bool:
    """Note how many each site shows; never what is waited for."""
    for site, count in shown.items():
        most[site] = max(most[site], count())
    return False
