"""A rolling upgrade from the release before, and a rolling restart, while 50 jobs a second come and pilots work.

MariaDB and RabbitMQ. Each process is replaced by itself, in an order drawn from a printed seed. Simulated pilots do
most of the work; a real one, of the release before, does some and lives through all of it.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import yaml
from sqlalchemy import func, select

from executors.pilots.batch.local import LocalBatchSystem
from executors.pilots.port import QueueSettings
from pipeline.store.database import Database
from pipeline.store.tables import campaigns, files, job_events, jobs, pilots
from schemas.sites import SiteQueueEntry
from schemas.states import CampaignState, JobState, PilotState
from tests.acceptance.system import FAST, started_twice
from tests.acceptance.upgrading import Load, Plant, Process, under
from tests.benchmarks.lifecycle_enrolment import submitted
from tests.benchmarks.lifecycle_pilots import written
from tests.benchmarks.lifecycle_processes import Command, running
from tests.previous_release import Release, previous_release, this_release
from tests.proxy import Balancer
from tests.rabbitmq import RabbitMqServer
from tests.servers import MariaDbServer, free_port
from tests.waiting import eventually

JOBS_PER_SECOND = 50
PILOTS, CORES = 10, 8
LEDGER_JOBS = 30
CONSUMERS = (("optimisation", "matching"), ("data", "upkeep"), ("pilots",))
SITES = {
    "storages": [{"name": "disk", "url": "file://${DATA_DIR}/storage"}],
    "sites": [
        {"name": "SIMULATED", "storages": ["disk"], "queues": [
            {"name": "grid", "cores": CORES, "memory": CORES * 2048, "disk": CORES * 10_240,
             "max_pilots": PILOTS, "max_pending_pilots": PILOTS, "removal": "none"}]},
        {"name": "REAL", "storages": ["disk"], "queues": [
            {"name": "node", "cores": 2, "memory": 2048, "max_pilots": 1, "max_pending_pilots": 1}]},
    ],
}  # fmt: skip
SIMULATED = {
    "name": "simulate",
    "command": ["simulate", "{n}"],
    "parameters": {"axes": {"n": {"range": [0, JOBS_PER_SECOND]}}},
    "outputs": ["events-{n}.root"],
    "requirements": {"wall_time": 3_600, "memory": 1_024, "disk": 1_024, "sites": ["SIMULATED"]},
}


@pytest.fixture
def database(mariadb_server: MariaDbServer) -> Iterator[Database]:
    opened = Database(mariadb_server.new_database())
    yield opened
    opened.close()


@pytest.fixture
def plant(database: Database, rabbitmq_server: RabbitMqServer, tmp_path: Path) -> Iterator[Plant]:
    """Two APIs, the clock and the consumers; nothing of it runs yet."""
    vhost = rabbitmq_server.new_vhost()
    made = Plant(
        tmp_path,
        {
            **FAST,
            "PENSTOCK_DATABASE_URL": database.url,
            "PENSTOCK_BROKER_URL": rabbitmq_server.amqp_url_of(vhost),
            "PENSTOCK_DATA_DIR": str(tmp_path / "data"),
            "PENSTOCK_SCHEDULES": json.dumps(
                {**json.loads(FAST["PENSTOCK_SCHEDULES"]), "provisioning": "* * * * * */15"}
            ),
            # as long as the busiest machine may take to start a process anew
            "PENSTOCK_HEARTBEAT_TIMEOUT": "60",
            "PENSTOCK_PILOT_LEASE": "120",
            "PENSTOCK_CONFIRM_TIMEOUT": "60",
            "PENSTOCK_PILOT_IDLE_LIMIT": "600",
        },
    )
    made.processes = [
        *(Process(f"api-{n}", ("api",), {"PENSTOCK_API_PORT": str(free_port())}) for n in (1, 2)),
        Process("triggers", ("triggers",), {"PENSTOCK_HEALTH_PORT": str(free_port())}),
        *(
            Process("-".join(queues), ("consume", *queues), {"PENSTOCK_HEALTH_PORT": str(free_port())})
            for queues in CONSUMERS
        ),
    ]
    yield made
    made.end()
    end_real_pilots(tmp_path / "data")
    rabbitmq_server.drop_vhost(vhost)


def end_real_pilots(data_dir: Path) -> None:
    """A pilot that finds no API any more would wait for one for as long as it may."""
    system = LocalBatchSystem(QueueSettings("REAL.node", SiteQueueEntry(name="node"), data_dir))
    system.remove([folder.name for folder in (data_dir / "local-batch" / "REAL.node").glob("*")])


def ledger_campaign(folder: Path) -> dict[str, object]:
    """Jobs for the real pilot, which note down that they began; one lasts for as long as the test wants."""
    began = 'echo "start $PENSTOCK_JOB_ID $PENSTOCK_ATTEMPT" >> "$LEDGER"; '
    common = {
        "environment": {"LEDGER": str(folder / "ledger.txt"), "GO": str(folder / "go")},
        "requirements": {"memory": 64, "disk": 16, "wall_time": 600, "sites": ["REAL"]},
    }
    long = {"name": "long", "command": ["/bin/sh", "-c", began + 'while [ ! -e "$GO" ]; do sleep 0.2; done'], **common}
    axes = {"axes": {"n": {"range": [0, LEDGER_JOBS - 1]}}}
    short = {"name": "short", "command": ["/bin/sh", "-c", began + "sleep 2"], "parameters": axes, **common}
    return {"campaign": "ledger", "steps": [long, short]}


def versions_told(plant: Plant, now: Release) -> tuple[set[str], set[str]]:
    """Which versions the processes' own metrics say, and which an API of this release tells of all."""
    own: set[str] = set()
    of_all: set[str] = set()
    for row in plant.rows(now):
        said = httpx.get(f"{row['health_url']}/metrics", timeout=10).text
        own |= set(re.findall(r'^penstock_instance_info{.*version="([^"]+)"', said, re.MULTILINE))
        of_all |= set(re.findall(r'^penstock_instances{.*version="([^"]+)"', said, re.MULTILINE))
    return own, of_all


def wait_for_end(database: Database) -> None:
    """Until every campaign is done; AssertionError that says in which states jobs are left."""
    open_ = select(func.count()).where(campaigns.c.state != CampaignState.DONE)
    query = select(jobs.c.state, jobs.c.reason, func.count().label("many")).group_by(jobs.c.state, jobs.c.reason)
    try:
        eventually(lambda: database.read(lambda tx: int(tx.scalar(open_))) == 0, within=120, every=0.5)
    except AssertionError:
        left = [tuple(row) for row in database.read(lambda tx: tx.rows(query))]
        raise AssertionError(f"not over: {left}") from None


def check_jobs(database: Database, load: Load, folder: Path) -> None:
    """Each job is done once, at its first attempt, by a history without a gap; each output is registered once."""
    found = database.read(lambda tx: tx.rows(select(jobs.c.id, jobs.c.state, jobs.c.attempt, jobs.c.campaign_id)))
    assert Counter((row.state, row.attempt) for row in found) == {(JobState.DONE, 1): len(found)}
    assert len(found) == len(load.submitted) * JOBS_PER_SECOND + LEDGER_JOBS
    known = {row.campaign_id for row in found}
    assert len(known) == len(load.submitted) + 1
    assert set(load.submitted) <= known
    columns = (job_events.c.job_id, job_events.c.from_state, job_events.c.to_state, job_events.c.attempt)
    histories: dict[int, list[tuple[str | None, str, int]]] = defaultdict(list)
    for row in database.read(lambda tx: tx.rows(select(*columns).order_by(job_events.c.id))):
        histories[row.job_id].append((row.from_state, row.to_state, row.attempt))
    assert set(histories) == {row.id for row in found}
    for job_id, history in histories.items():
        states = [to for _, to, _ in history]
        assert [origin for origin, _, _ in history] == [None, *states[:-1]], (job_id, history)
        assert Counter(states)[JobState.RUNNING] == 1, (job_id, history)
    outputs = database.read(lambda tx: tx.rows(select(files.c.job_id)))
    assert Counter(row.job_id for row in outputs) == {
        row.id: 1 for row in found if row.campaign_id in set(load.submitted)
    }
    assert started_twice(folder) == []


@pytest.mark.alone  # 50 jobs a second are about what this machine does
@pytest.mark.timeout(600)
def test_an_upgrade_and_a_restart_lose_and_double_nothing(
    plant: Plant, database: Database, seed: int, tmp_path: Path
) -> None:
    before, now = previous_release(make(tmp_path / "before")), this_release()
    order = random.Random(seed).sample(plant.processes, len(plant.processes))
    ports = [int(process.variables["PENSTOCK_API_PORT"]) for process in plant.processes[:2]]
    make(tmp_path / "data" / "storage")
    with Balancer(*ports) as balancer:
        plant.variables = {**plant.variables, "PENSTOCK_API_URL": f"http://127.0.0.1:{balancer.port}"}
        plant.run(before, "db", "upgrade")
        token = plant.run(before, "tokens", "bootstrap").stdout.strip()
        plant.variables = {**plant.variables, "PENSTOCK_TOKEN": token}
        for process in plant.processes:
            plant.start(process, before)
        for process in plant.processes:
            plant.wait_for(process)
        (tmp_path / "sites.yaml").write_text(yaml.safe_dump(SITES))
        plant.run(before, "sites", "apply", str(tmp_path / "sites.yaml"))
        plan = database.transact(lambda tx: submitted(tx, [balancer.port], many=PILOTS, cores=CORES))
        plan_file = written(replace(plan, patience=30.0), tmp_path)
        command = Command("simulator", ("tests.benchmarks.lifecycle_pilots", str(plan_file)))
        with running([command], tmp_path) as (simulator,):
            assert simulator.line() == "ready\n"
            (tmp_path / "ledger.yaml").write_text(yaml.safe_dump(ledger_campaign(tmp_path)))
            plant.run(before, "submit", str(tmp_path / "ledger.yaml"))
            load = Load(f"http://127.0.0.1:{balancer.port}", token, SIMULATED)
            with under(load):
                eventually((tmp_path / "ledger.txt").exists, within=60)
                (pilot,) = real_pilots(database)
                upgrade(plant, before, now, order)
                take_back(plant, before)
                for process in [*order, *order]:  # the second time each is one of this release already
                    plant.replace(process, now)
            print(f"{len(load.submitted) * JOBS_PER_SECOND} jobs, {load.requests} requests")
            assert len(load.submitted) >= 0.9 * load.due, "it was to be under load"
            assert real_pilots(database) == [pilot]
            (tmp_path / "go").touch()
            wait_for_end(database)
            assert simulator.process.poll() is None
        assert load.given_up == []
        assert plant.said("error") == []
        assert {row["version"] for row in plant.rows(now)} == {now.version}
        assert json.loads(plant.run(now, "dead", "list", "--json").stdout) == []
    check_jobs(database, load, tmp_path)


def upgrade(plant: Plant, before: Release, now: Release, order: list[Process]) -> None:
    """The schema first, then process by process; while versions are mixed, it is told."""
    plant.run(now, "db", "upgrade")
    plant.replace(order[0], before)  # who starts again meanwhile, or takes the upgrade back, is no worse off
    for number, process in enumerate(order):
        plant.replace(process, now)
        if number == len(order) // 2:
            listed = plant.run(now, "instances")
            assert f"versions differ: {before.version}" in listed.stderr
            assert f"versions differ: {before.version}" in plant.run(before, "instances").stderr
            mixed = {before.version, now.version}
            is_told_of = any(done.words == ("api",) for done in order[: number + 1])  # 0.4.0's APIs know of no others
            assert versions_told(plant, now) == (mixed, mixed if is_told_of else set())
    assert "versions differ" not in plant.run(now, "instances").stderr


def take_back(plant: Plant, before: Release) -> None:
    """One process of each kind becomes the old release's again beside the new ones, the clock first; as it is told."""
    by_name = {process.name: process for process in plant.processes}
    for name in ("triggers", "data-upkeep", "api-1"):
        plant.replace(by_name[name], before)


def real_pilots(database: Database) -> list[int]:
    """The pilots that run at the real site."""
    query = select(pilots.c.id).where(pilots.c.state == PilotState.RUNNING, pilots.c.cores == 2)
    return [row.id for row in database.read(lambda tx: tx.rows(query))]


def make(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder
