"""A whole Penstock under test: `penstock up` with time scaled down, a campaign that keeps a ledger, and faults."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from tests.servers import free_port
from tests.waiting import eventually

FAST = {
    "PENSTOCK_HEARTBEAT_INTERVAL": "0.5",
    "PENSTOCK_HEARTBEAT_TIMEOUT": "4",
    "PENSTOCK_PILOT_LEASE": "6",
    "PENSTOCK_CONFIRM_TIMEOUT": "6",
    "PENSTOCK_WAKE_AFTER": "4",
    "PENSTOCK_COOL_OFF": "1",
    "PENSTOCK_PILOT_IDLE_LIMIT": "60",
    "PENSTOCK_SCHEDULES": json.dumps(
        {
            "reconcile": "* * * * * */2",
            "silence": "* * * * * */1",
            "provisioning": "* * * * * */2",
            "deferred": "* * * * * */1",
        }
    ),
}
"""Minutes become seconds; the order of the times among each other stays."""

SITES = {
    "storages": [{"name": "local", "url": "file://${DATA_DIR}/storage"}],
    "sites": [
        {
            "name": "LOCAL",
            "storages": ["local"],
            "queues": [
                {"name": "local", "cores": 4, "memory": 8192, "max_pilots": 2, "max_pending_pilots": 2},
            ],
        }
    ],
}

PAYLOAD = """\
echo "start $PENSTOCK_JOB_ID $PENSTOCK_ATTEMPT" >> "$LEDGER"
sleep 0.2
echo "result of $PENSTOCK_JOB_ID in attempt $PENSTOCK_ATTEMPT" > out.txt
echo "end $PENSTOCK_JOB_ID $PENSTOCK_ATTEMPT" >> "$LEDGER"
"""


@dataclass(slots=True)
class System:
    """`penstock up` in a folder of its own."""

    folder: Path
    variables: dict[str, str]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def data_dir(self) -> Path:
        return self.folder / "data"

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
        own = {"PENSTOCK_DATA_DIR": str(self.data_dir), "PENSTOCK_API_PORT": "0", "PENSTOCK_PILOT_CONTAINERS": "none"}
        return kept | own | self.variables

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """A process of ours that goes on running; its output goes to a log.

        It is nice: it stands for another machine, whose processors a person's commands do not wait for.
        """
        with (self.folder / f"{arguments[0]}-{len(self.processes)}.log").open("wb") as log:
            command = ["nice", sys.executable, "-m", "pipeline.cli", *arguments]
            process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        self.processes.append(process)
        return process

    def run(self, *arguments: str, expect: int = 0) -> str:
        """The standard output of a `penstock` command that ends with the exit code `expect`."""
        command = [sys.executable, "-m", "pipeline.cli", *arguments]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == expect, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}\n{self.logs()}"
        return done.stdout

    def json(self, *arguments: str) -> Any:
        """The answer of a command with --json."""
        return json.loads(self.run(*arguments, "--json"))

    def get(self, path: str) -> Any:
        """The API's answer to the operator. Raises httpx.HTTPError."""
        url = self.variables.get("PENSTOCK_API_URL") or (self.data_dir / "api.url").read_text().strip()
        token = self.variables.get("PENSTOCK_TOKEN") or (self.data_dir / "token").read_text().strip()
        reply = httpx.get(url + path, headers={"Authorization": f"Bearer {token}"}, timeout=10)
        reply.raise_for_status()
        return reply.json()

    def answers(self) -> bool:
        """Whether the API answers."""
        try:
            return bool(self.get("/v1/whoami"))
        except (httpx.HTTPError, OSError):
            return False

    def pids(self, kind: str) -> list[int]:
        """The live processes of a kind: api, consumer, triggers; worker (of the consumers' pools); pilot."""
        if kind == "worker":
            workers = [worker for pid in self.pids("consumer") for worker in workers_of(pid)]
            return [worker.pid for worker in workers if worker.is_running()]
        if kind == "pilot":
            mine = str(self.data_dir)
            return [p.pid for p in psutil.process_iter(["cmdline", "cwd"]) if _is_pilot(p, mine)]
        return [row["pid"] for row in self.json("instances") if row["kind"] == kind and psutil.pid_exists(row["pid"])]

    def kill(self, kind: str) -> list[int]:
        """kill -9 for every process of a kind; which they were."""
        victims = self.pids(kind)
        for pid in victims:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        return victims

    def logs(self) -> str:
        """The last lines of every log, for a failure's message."""
        tails = [
            f"--- {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-40:])
            for path in sorted(self.folder.glob("*.log"))
        ]
        return "\n".join(tails)

    def apply_sites(self, sites: Mapping[str, Any] = SITES) -> None:
        """`penstock sites apply`."""
        path = self.folder / "sites.yaml"
        path.write_text(yaml.safe_dump(dict(sites)))
        self.run("sites", "apply", str(path))

    def submit(self, description: Mapping[str, Any]) -> int:
        """`penstock submit`; the campaign's id."""
        path = self.folder / "campaign.yaml"
        path.write_text(yaml.safe_dump(dict(description)))
        return int(self.json("submit", str(path))["campaign_id"])

    def end(self) -> None:
        """SIGTERM, then SIGKILL, for what was started."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def penstock_up(folder: Path, variables: Mapping[str, str] | None = None) -> Iterator[System]:
    """`penstock up`, ready, with the local site applied."""
    folder.mkdir(parents=True, exist_ok=True)
    system = System(folder, {**FAST, **(variables or {})})
    if "PENSTOCK_DATABASE_URL" in system.variables:
        system.run("db", "upgrade")
    ready = folder / "ready"
    system.start("up", "--ready-file", str(ready))
    try:
        eventually(ready.exists, within=120.0)
        system.apply_sites()
        yield system
    finally:
        system.end()


QUEUES = ("optimisation", "matching", "pilots", "data", "upkeep")


@contextmanager
def penstock_apart(folder: Path, variables: Mapping[str, str]) -> Iterator[System]:
    """Each process by itself, as an orchestrator starts them, on a database and a broker that are there."""
    system = System(folder, {**FAST, **variables})
    system.run("db", "upgrade")
    system.variables["PENSTOCK_TOKEN"] = system.run("tokens", "bootstrap").strip()
    port = free_port()  # as late as can be: what is free now may be taken soon
    system.variables |= {"PENSTOCK_API_PORT": str(port), "PENSTOCK_API_URL": f"http://127.0.0.1:{port}"}
    try:
        system.start("api")
        system.start("consume", *QUEUES)
        system.start("triggers")
        eventually(system.answers, within=120.0)
        yield system
    finally:
        system.end()
        for pid in system.pids("pilot"):
            os.kill(pid, signal.SIGTERM)


def workers_of(consumer: int) -> list[psutil.Process]:
    """The workers of a consumer's pools: children of its fork server."""
    return [worker for server in psutil.Process(consumer).children() for worker in server.children()]


def ledger_campaign(folder: Path, jobs: int) -> dict[str, Any]:
    """A campaign of short jobs that note their starts and ends outside the system."""
    return {
        "campaign": "ledger",
        "steps": [
            {
                "name": "note",
                "command": ["/bin/sh", "-c", PAYLOAD.replace("{", "{{").replace("}", "}}")],
                "parameters": {"axes": {"n": {"range": [0, jobs]}}},
                "environment": {"LEDGER": str(folder / "ledger.txt")},
                "outputs": ["out.txt"],
                "requirements": {"memory": 64, "disk": 16, "wall_time": 60},
                "retries": {"infrastructure": 20, "payload": 0},
            }
        ],
    }


def ended(system: System, campaign_id: int) -> bool:
    """Whether a campaign is over, one way or another; no while the API is away."""
    try:
        return system.get(f"/v1/campaigns/{campaign_id}")["state"] in {"done", "blocked", "cancelled"}
    except httpx.HTTPError:
        return False


def moment(seed: int, earliest: float, latest: float) -> float:
    """When a fault strikes, seconds after the first job ended; drawn from a printed seed."""
    drawn = random.Random(seed).uniform(earliest, latest)
    print(f"seed {seed}: the fault strikes after {drawn:.2f} s")
    return drawn


def started_twice(folder: Path) -> list[str]:
    """The (job, attempt) pairs that the ledger shows to have begun more than once."""
    lines = (folder / "ledger.txt").read_text().splitlines()
    return [line for line, many in Counter(line for line in lines if line.startswith("start")).items() if many > 1]


def _is_pilot(process: psutil.Process, data_dir: str) -> bool:
    """By where it works: its command line names no folder."""
    line, folder = " ".join(process.info["cmdline"] or ()), process.info["cwd"] or ""
    return "penstock-pilot" in line and data_dir in folder
