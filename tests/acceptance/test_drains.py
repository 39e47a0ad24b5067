"""A drain of each kind under load, on MariaDB: it ends as it says, and its report is what the tables hold."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import func, literal, select

from pipeline.store import drain_reports, drains
from pipeline.store.database import Database, Transaction
from pipeline.store.drains import Drain
from pipeline.store.instances import InstanceRow, list_instances
from pipeline.store.tables import deferred_messages, instances, job_events, jobs, pilots, queue_loads, sites, vos
from schemas.drain_views import OF_PROCESSES, DrainReport, Thing
from schemas.states import JOB_ON_PILOT, PILOT_FINAL, JobState, PilotState
from tests.acceptance.system import FAST, QUEUES, System, ended, penstock_apart, workers_of
from tests.servers import MariaDbServer, RedisServer
from tests.waiting import eventually

SITES = {
    "storages": [{"name": "disk", "url": "file://${DATA_DIR}/storage"}],
    "sites": [
        {
            "name": name,
            "storages": ["disk"],
            "queues": [{"name": vo, "vos": [vo], "cores": cores, "memory": 8192} for vo in ("default", "guests")],
        }
        for name, cores in (("A", 4), ("B", 8))
    ],
}
"""A pilot of each VO at each of two sites."""
ALIVE = [state for state in PilotState if state not in PILOT_FINAL]
LOAD = "case {n} in *[05]) sleep 3;; *) sleep 0.5;; esac"
"""Most jobs are short; some last, so that drains have something to wait for."""
GO = 'while [ ! -e "$GO" ]; do sleep 0.2; done'
Workers = list[psutil.Process]
Counts = Mapping[tuple[str, str, str, str], int]
"""How many things, by what they are, the site or process where, the VO or queue of which, and the state in which."""


@pytest.fixture
def system(mariadb_server: MariaDbServer, redis_server: RedisServer, tmp_path: Path) -> Iterator[System]:
    """Every process by itself, two sites, and two VOs; `matching` has two consumers of its own, too."""
    redis_server.flush()
    variables = {
        "PENSTOCK_DATABASE_URL": mariadb_server.new_database(),
        "PENSTOCK_BROKER_URL": redis_server.url,
        "PENSTOCK_SCHEDULES": json.dumps({**json.loads(FAST["PENSTOCK_SCHEDULES"]), "drains": "* * * * * */2"}),
        # that no attempt is begun anew while everything is waited out, as busy as the machine may be
        "PENSTOCK_HEARTBEAT_TIMEOUT": "20",
        "PENSTOCK_PILOT_LEASE": "30",
    }
    with penstock_apart(tmp_path, variables) as running:
        for _ in range(2):
            running.start("consume", "matching")
        running.variables["GUEST"] = running.run("tokens", "bootstrap", "--vo", "guests").strip()
        running.apply_sites(SITES)
        yield running


@pytest.fixture
def database(system: System) -> Iterator[Database]:
    opened = Database(system.variables["PENSTOCK_DATABASE_URL"])
    yield opened
    opened.close()


def of_guests(system: System) -> System:
    """The same, as the operator of the other VO."""
    return System(system.folder, {**system.variables, "PENSTOCK_TOKEN": system.variables["GUEST"]})


def campaign(system: System, many: int, command: str) -> int:
    """So many jobs."""
    step = {
        "name": "run",
        "command": ["/bin/sh", "-c", command],
        "parameters": {"axes": {"n": {"range": [0, many]}}},
        "environment": {"GO": str(system.folder / "go")},
        "requirements": {"memory": 64, "disk": 16, "wall_time": 600},
        "retries": {"infrastructure": 20, "payload": 0},
    }
    return system.submit({"campaign": "load", "steps": [step]})


def in_one_moment(database: Database, drain_id: int) -> tuple[DrainReport, Counts]:
    """What the drain's report says, and plain counts of the same tables in the same snapshot."""
    with database.engine.connect() as connection:
        snapshot = connection.execution_options(isolation_level="REPEATABLE READ")
        with snapshot.begin():
            now = snapshot.execute(select(func.utc_timestamp(6, type_=deferred_messages.c.due_at.type))).scalar_one()
            tx = Transaction(snapshot, now)
            drain = drains.find(tx, drain_id)
            found = drain_reports.report(tx, drain)
            if drain.kind in OF_PROCESSES:
                return found, plain_processes(tx, drain)
            return found, {**plain(tx, jobs, sorted(JOB_ON_PILOT)), **plain(tx, pilots, ALIVE)}


def plain(tx: Transaction, table: Any, states: list[Any]) -> Counts:
    """Rows by table, site, VO and state."""
    columns = (sites.c.name.label("site"), vos.c.name.label("vo"), table.c.state)
    query = select(*columns, func.count().label("many")).join(sites, sites.c.id == table.c.site_id)
    query = query.join(vos, vos.c.id == table.c.vo_id).where(table.c.state.in_(states)).group_by(*columns)
    return {(table.name, row.site, row.vo, row.state): row.many for row in tx.rows(query)}


def plain_processes(tx: Transaction, drain: Drain) -> Counts:
    """Those that were there when it began, as a whole and by queue, what each has received, and what is deferred."""
    columns = (instances.c.id, instances.c.state)
    whole = select(*columns, literal("").label("queue"), instances.c.in_flight)
    parts = select(*columns, queue_loads.c.queue, queue_loads.c.in_flight)
    parts = parts.join(queue_loads, queue_loads.c.instance_id == instances.c.id)
    found: dict[tuple[str, str, str, str], int] = {}
    for query in (whole, parts):
        for row in tx.rows(query.where(instances.c.started_at <= drain.started_at)):
            found["processes", row.id, row.queue, row.state] = 1
            found["messages", row.id, row.queue, ""] = row.in_flight
    later = select(deferred_messages.c.queue, func.count().label("many")).group_by(deferred_messages.c.queue)
    found |= {("messages", "", row.queue, "deferred"): row.many for row in tx.rows(later)}
    return {key: many for key, many in found.items() if many}


def told(report: DrainReport) -> Counts:
    """The same, as the report's lines have it."""
    total: Counter[tuple[str, str, str, str]] = Counter()
    for line in report.left:
        where, whose = line.site or line.instance or "", line.vo or line.queue or ""
        total[line.what.value, where, whose, line.state or ""] += line.count
    return total


def left_of(counts: Counts, *, at: str | None = None, of: str | None = None) -> Counts:
    """Those at a site or in a process, of a VO or a queue."""
    return {key: many for key, many in counts.items() if at in (None, key[1]) and of in (None, key[2])}


def registered(database: Database, process: subprocess.Popen[bytes]) -> InstanceRow:
    """A process as it tells of itself, once it does."""
    (row,) = eventually(lambda: [row for row in database.read(list_instances) if row.pid == process.pid])
    return row


def held_up(database: Database, process: subprocess.Popen[bytes]) -> Workers:
    """Stop the workers of a process; they, once it has received what it now can't finish."""
    workers = workers_of(registered(database, process).pid)
    assert workers
    for worker in workers:
        worker.suspend()
    settled = database.read(lambda tx: tx.after(1.0))  # what they had finished just before is no longer in flight then

    def holds() -> bool:
        row = registered(database, process)
        return row.in_flight > 0 and row.last_seen > settled

    eventually(holds)
    return workers


def ends_after_messages(report: DrainReport) -> bool:
    """Whether a process has obeyed, and something that it has received is left."""
    obeys = {line.instance for line in report.holding if line.state == "draining"}
    return any(line.what is Thing.MESSAGES and line.instance in obeys for line in report.holding)


def waiting(system: System, *words: str) -> subprocess.Popen[str]:
    """`penstock drain ... --wait`, under way."""
    command = [sys.executable, "-m", "pipeline.cli", "drain", *words, "--wait", "--json"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=system.environment, text=True, stdout=pipe, stderr=pipe)


def follow(
    system: System, database: Database, *words: str, expect: int = 0, held: Workers | None = None, **scope: str
) -> dict[str, Any]:
    """Drain, hold the report against the tables for as long as it lasts, and return the last report. Workers that are
    `held` go on when it tells of what they hold up."""
    known = {drain.id for drain in database.read(lambda tx: drains.some(tx, most=100, lifted=True))}
    process = waiting(system, *words)

    def begun() -> list[int]:
        assert process.poll() in (None, expect), process.communicate()
        found = database.read(lambda tx: drains.some(tx, most=100, lifted=True))
        return [drain.id for drain in found if drain.id not in known]

    (drain_id,) = eventually(begun, within=30.0)

    def is_over() -> bool:
        report, counts = in_one_moment(database, drain_id)
        assert told(report) == left_of(counts, **scope)
        while held and ends_after_messages(report):
            held.pop().resume()
        return process.poll() is not None

    try:
        eventually(is_over, within=150.0, every=0.2)
    except AssertionError as late:
        late.add_note(str(in_one_moment(database, drain_id)[0]))
        raise
    finally:
        process.kill()
        out, err = process.communicate()
    assert process.returncode == expect, f"{out}\n{err}\n{system.logs()}"
    assert not held, "the report never told of what they held up"
    last: dict[str, Any] = json.loads(out)
    return last


def states(database: Database, *campaign_ids: int) -> Counter[str]:
    query = select(jobs.c.state).where(jobs.c.campaign_id.in_(campaign_ids))
    return Counter(row.state for row in database.read(lambda tx: tx.rows(query)))


def those(database: Database, state: JobState, *campaign_ids: int) -> set[int]:
    """The jobs of campaigns that are in a state."""
    query = select(jobs.c.id).where(jobs.c.campaign_id.in_(campaign_ids), jobs.c.state == state)
    return {row.id for row in database.read(lambda tx: tx.rows(query))}


def on_pilots(found: Mapping[str, int]) -> int:
    return sum(many for state, many in found.items() if state in JOB_ON_PILOT)


def matched_since(database: Database, drain: Mapping[str, Any], site: str) -> int:
    """Jobs that were given to pilots of a site after it was drained."""
    here = pilots.c.site_id == select(sites.c.id).where(sites.c.name == site).scalar_subquery()
    query = select(func.count()).select_from(job_events).join(pilots, pilots.c.id == job_events.c.pilot_id)

    def work(tx: Transaction) -> int:
        since = drains.find(tx, drain["id"]).drained_at
        return int(tx.scalar(query.where(here, job_events.c.to_state == JobState.MATCHED, job_events.c.at > since)))

    return database.read(work)


@pytest.mark.timeout(400)
def test_a_drain_of_each_kind_under_load_ends_as_it_says(system: System, database: Database) -> None:
    guests = of_guests(system)
    load = [campaign(system, 40, LOAD), campaign(guests, 20, LOAD)]
    eventually(lambda: all(on_pilots(states(database, one)) for one in load), within=60.0)

    # a process, and a queue: those who served it end, of other queues too; one that comes later serves it
    all_queues, first, second = (system.processes[number] for number in (1, -2, -1))
    one = registered(database, first).id
    drained = follow(system, database, one, at=one, of="", held=held_up(database, first))
    assert (drained["state"], drained["left"], first.wait(20)) == ("drained", [], 0)
    drained = follow(system, database, "matching", of="matching", held=held_up(database, second))
    assert (drained["state"], drained["left"]) == ("drained", [])
    assert [process.wait(30) for process in (second, all_queues)] == [0, 0]
    system.start("consume", *QUEUES)

    # a VO: its jobs wait, the other's go on
    mine, theirs = campaign(system, 75, LOAD), campaign(guests, 35, LOAD)
    load += [mine, theirs]
    eventually(lambda: on_pilots(states(database, mine)) and on_pilots(states(database, theirs)), within=60.0)
    drained = follow(guests, database, "--vo", "guests", of="guests")
    assert (drained["state"], drained["left"], on_pilots(states(database, theirs))) == ("drained", [], 0)
    assert not ended(system, mine)

    # a site: the other one goes on
    site_a = follow(system, database, "--site", "A", "--deadline", "60s", at="A")
    assert (site_a["state"], site_a["left"], site_a["deadline_at"] is None) == ("drained", [], False)

    # everything, waited out: what runs goes on to its end, the rest waits
    guests.run("undrain", "--vo", "guests")
    load += [campaign(system, 15, "sleep 3"), campaign(guests, 15, "sleep 3")]
    eventually(lambda: len(those(database, JobState.RUNNING, *load)) >= 6, within=60.0)
    begun = those(database, JobState.RUNNING, *load)
    drained = follow(system, database, "--all")
    assert (drained["state"], drained["left"], on_pilots(states(database, *load))) == ("drained", [], 0)
    assert begun <= those(database, JobState.DONE, *load)
    assert those(database, JobState.WAITING, *load)
    system.run("undrain", "--all")
    eventually(lambda: states(database, *load) == {"done": 200}, within=120.0)
    assert matched_since(database, site_a, "A") == 0

    # a deadline that passes: 1, and what is left is told; everything, killed at the deadline: its jobs start again
    endless = campaign(system, 4, GO)
    eventually(lambda: states(database, endless)["running"] == 4, within=60.0)
    overdue = follow(system, database, "--site", "B", "--deadline", "1s", expect=1, at="B")
    assert overdue["state"] == "overdue"
    assert [line["count"] for line in overdue["left"] if line["what"] == "jobs"] == [4]
    killed = follow(system, database, "--all", "--deadline", "1s", "--kill")
    assert (killed["state"], killed["left"], on_pilots(states(database, endless))) == ("drained", [], 0)
    for scope in (("--site", "A"), ("--site", "B"), ("--all",)):
        assert not ended(system, endless)
        system.run("undrain", *scope)
    (system.folder / "go").touch()
    eventually(lambda: ended(system, endless), within=60.0)
    assert states(database, endless) == {"done": 4}
    assert system.json("dead", "list") == []
