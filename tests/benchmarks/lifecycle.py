"""The whole life of 100,000 jobs: submitted, optimised, matched, run by simulated pilots, checked, done.

Everything is as in production: the API, a consumer for each queue and the triggers are processes of their own, on
MariaDB and Redis, and 1,000 pilots of 8 cores speak HTTP. The jobs themselves take no time. All of it, pilots too,
shares this machine's cores, so the CPU per job says more than the rate where something else runs on them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
from sqlalchemy import func, select

from pipeline.client import Client
from pipeline.store import access, migration
from pipeline.store.access import NewToken
from pipeline.store.database import Database, Transaction
from pipeline.store.instances import list_instances
from pipeline.store.tables import campaigns, files, slots
from pipeline.store.tables import jobs as jobs_table
from schemas.api import Role
from schemas.campaign import Campaign
from schemas.sites import SitesFile
from schemas.states import CampaignState, JobState
from tests.benchmarks.figures import Figure
from tests.benchmarks.lifecycle_enrolment import submitted
from tests.benchmarks.lifecycle_pilots import Plan, written
from tests.benchmarks.lifecycle_processes import Command, Program, cpu_of, running
from tests.servers import MariaDbServer, RedisServer, free_port, running_mariadb, running_redis, server_folder
from tests.waiting import eventually

JOBS = 100_000
PILOTS = 1_000
SITES = 20
CORES = 8
"""Of each pilot."""
EXPECTED = 300.0
"""Jobs per second from submission to `done`, on two cores."""
APIS = 1
"""API processes."""
QUEUES = ("optimisation", "matching", "data", "pilots", "upkeep")
_LONGEST = 3_600.0


@dataclass(frozen=True, slots=True)
class System:
    """What runs, and where."""

    variables: Mapping[str, str]
    database: Database
    mariadb: MariaDbServer
    redis: RedisServer
    programs: Sequence[Program]
    ports: Sequence[int]
    """Of the APIs."""

    def client(self, token: str) -> Client:
        """A person's client."""
        return Client(f"http://127.0.0.1:{self.ports[0]}", token)

    def penstock(self, words: str) -> Command:
        """Another process of it."""
        return _penstock(words, self.variables)

    def cpu(self, programs: Sequence[Program]) -> Mapping[str, float]:
        """Seconds of CPU that these and the servers have used so far, by process."""
        ours = {program.name: program.cpu for program in programs}
        return {**ours, "MariaDB": cpu_of(self.mariadb.pid), "Redis": cpu_of(self.redis.pid)}


def measure() -> list[Figure]:
    """One run. The start of the processes and the pilots' enrolment are not counted."""
    with server_folder("lifecycle") as folder, _running(folder) as system:
        token = _prepare(system, folder / "storage")
        plan = written(system.database.transact(lambda tx: _submitted(tx, system.ports)), folder)
        with running([Command("pilots", ("tests.benchmarks.lifecycle_pilots", str(plan)))], folder) as (simulator,):
            assert simulator.line() == "ready\n"
            eventually(lambda: _parked(system.database) == PILOTS, within=120.0)
            # The clock starts now, lest provisioning remove pilots that nobody needs yet.
            with running([system.penstock("triggers")], folder) as clock:
                eventually(lambda: _kinds(system.database) >= {"api", "consumer", "triggers"}, within=60.0)
                figures = _live(system, [*system.programs, *clock, simulator], token)
            simulator.process.terminate()
            figures += _calls(json.loads(simulator.line()))
    return figures


def _live(system: System, programs: Sequence[Program], token: str) -> list[Figure]:
    before = system.cpu(programs)
    begun = time.perf_counter()
    campaign_id = _submit(system, token)
    stored = time.perf_counter() - begun
    eventually(lambda: _is_done(system.database, campaign_id), within=_LONGEST, every=0.25)
    seconds = time.perf_counter() - begun
    after = system.cpu(programs)
    _check(system.database)
    used = {name: after[name] - before[name] for name in after}
    whole = sum(used.values())
    return [
        Figure(f"{JOBS:,} jobs from submission to done", f"{PILOTS:,} pilots", JOBS / seconds, "jobs/s", EXPECTED),
        Figure("of that the submission", "1 request", stored, "s"),
        Figure("CPU per job", "everything", whole / JOBS * 1_000, "ms"),
        Figure("cores in use", "everything", whole / seconds, "cores"),
        *(Figure("CPU per job", name, cpu / JOBS * 1_000, "ms") for name, cpu in used.items()),
        *(Figure("share of the CPU", name, cpu / whole * 100, "%") for name, cpu in used.items()),
    ]


def _calls(found: Mapping[str, Mapping[str, float]]) -> list[Figure]:
    return [
        figure
        for path, of_path in found.items()
        for figure in (
            Figure("calls", path, of_path["calls"], "calls"),
            Figure("time of a call, median", path, of_path["p50"] * 1_000, "ms"),
            Figure("time of a call, 99 %", path, of_path["p99"] * 1_000, "ms"),
        )
    ]


@contextmanager
def _running(folder: Path) -> Iterator[System]:
    """The servers, the APIs and the consumers."""
    with running_mariadb() as mariadb, running_redis() as redis:
        variables = {
            "PENSTOCK_DATABASE_URL": mariadb.new_database(),
            "PENSTOCK_BROKER_URL": redis.url,
            "PENSTOCK_DATA_DIR": str(folder),
        }
        database = Database(variables["PENSTOCK_DATABASE_URL"])
        migration.upgrade(database)
        ports = [free_port() for _ in range(APIS)]
        commands = [
            *(_penstock("api", variables, name=f"API on {port}", port=port) for port in ports),
            *(_penstock(f"consume {queue}", variables) for queue in QUEUES),
        ]
        with running(commands, folder) as programs:
            for port in ports:
                eventually(partial(_answers, port), within=60.0)
            yield System(variables, database, mariadb, redis, programs, ports)
        database.close()


def _penstock(words: str, variables: Mapping[str, str], *, name: str = "", port: int = 0) -> Command:
    return Command(name or words, ("pipeline.cli", *words.split()), {**variables, "PENSTOCK_API_PORT": str(port)})


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/livez").is_success
    except httpx.TransportError:
        return False


def _prepare(system: System, storage: Path) -> str:
    """Declare the sites, with one storage; the token of the user who will submit."""
    storage.mkdir()
    names = [f"SITE-{number:02}" for number in range(SITES)]
    queue = {
        "name": "grid", "cores": CORES, "memory": CORES * 2048, "disk": CORES * 10_240,
        "max_pilots": PILOTS // SITES, "max_pending_pilots": PILOTS // SITES,
    }  # fmt: skip
    declared = SitesFile.model_validate(
        {
            "storages": [{"name": "disk", "url": f"file://{storage}"}],
            "sites": [{"name": name, "storages": ["disk"], "queues": [queue]} for name in names],
        }
    )

    def tokens(tx: Transaction) -> tuple[str, str]:
        operator = access.bootstrap(tx)
        user = NewToken(role=Role.USER, subject="alice", group="physics")
        return operator, access.create_token(tx, access.ensure_vo(tx, "default"), user).token

    operator, user = system.database.transact(tokens)
    with system.client(operator) as client:
        client.apply_sites(declared)
    return user


def _submitted(tx: Transaction, ports: Sequence[int]) -> Plan:
    return submitted(tx, ports, many=PILOTS // SITES, cores=CORES)


def _submit(system: System, token: str) -> int:
    step = {
        "name": "simulate",
        "command": ["simulate", "--seed", "{seed}"],
        "parameters": {"axes": {"seed": {"range": [0, JOBS]}}},
        "outputs": ["events-{seed}.root"],
        "requirements": {"wall_time": 3_600, "memory": 1_024, "disk": 1_024},
    }
    with system.client(token) as client:
        return client.submit(Campaign.model_validate({"campaign": "lifecycle", "steps": [step]})).campaign_id


def _kinds(database: Database) -> set[str]:
    """Of processes that say that they run."""
    return {row.kind for row in database.read(list_instances)}


def _parked(database: Database) -> int:
    return int(database.read(lambda tx: tx.scalar(select(func.count()).where(slots.c.state == "parked"))))


def _is_done(database: Database, campaign_id: int) -> bool:
    query = select(campaigns.c.state).where(campaigns.c.id == campaign_id)
    return bool(database.read(lambda tx: tx.scalar(query)) == CampaignState.DONE)


def _check(database: Database) -> None:
    """Every job is done at its first attempt, and every output is in the catalogue."""
    done = select(func.count()).where(jobs_table.c.state == JobState.DONE, jobs_table.c.attempt == 1)
    counted = database.read(lambda tx: (tx.scalar(done), tx.scalar(select(func.count(files.c.id)))))
    assert counted == (JOBS, JOBS), f"{counted[0]} jobs are done at their first attempt, {counted[1]} files registered"
