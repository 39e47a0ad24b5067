"""A world loaded in bulk: the real tables, in the order of their keys, arrays of jobs counted out by the server.

What campaigns, steps, templates, requirements and autoclusters hold is written as the program writes it; the millions
of rows of jobs, events and waiting jobs come from MariaDB's SEQUENCE engine, one statement for each campaign.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from random import Random
from typing import Any

from pipeline.store import access, migration
from pipeline.store.database import Database, Transaction, in_chunks
from pipeline.store.tables import (
    autoclusters,
    campaigns,
    job_specs,
    requirements,
    resources,
    site_queues,
    site_storages,
    sites,
    steps,
    storages,
)
from schemas.campaign import Step
from schemas.nodes import NodeKind
from schemas.requirements import Requirement
from schemas.states import CampaignState, StepState
from tests.benchmarks.matching_world import VO, Cluster, Farm, World

_OLDEST = 12 * 3_600
"""Seconds since the first of the campaigns came."""
_JOBS_PER_STATEMENT = 50_000
"""So that no statement takes as long as the program lets one take."""
_ROWS_PER_COMMIT = 100_000
_JOBS = (
    "INSERT INTO jobs (id, vo_id, campaign_id, step_id, spec_id, array_index, state, priority, autocluster_id,"
    " created_at, changed_at) SELECT {zero} + seq, {vo}, {id}, {id}, {id}, seq, 'waiting', {priority}, {cluster},"
    " '{at}', '{at}' FROM seq_{start}_to_{last}"
)
_EVENTS = (
    "INSERT INTO job_events (job_id, attempt, from_state, to_state, at) SELECT {zero} + seq DIV 2, 0,"
    " IF(seq MOD 2, 'received', NULL), IF(seq MOD 2, 'waiting', 'received'), '{at}'"
    " FROM seq_{first_event}_to_{last_event}"
)
_WAITING = "INSERT INTO waiting_jobs SELECT {cluster}, {descent}, {zero} + seq FROM seq_{start}_to_{last}"


@dataclass(frozen=True, slots=True)
class Batch:
    """The jobs of one campaign: `jobs` of them from `first_job` on, in one autocluster, of one priority.

    The campaign, its step and its template all have the id `id`.
    """

    id: int
    cluster_id: int
    owner_id: int
    priority: int
    first_job: int
    jobs: int
    age: float
    """Seconds since it came."""

    def statements(self, template: str, vo_id: int, now: datetime) -> Iterator[str]:
        """Those that fill a table with its jobs."""
        came = (now - timedelta(seconds=self.age)).replace(tzinfo=None)
        for start in range(0, self.jobs, _JOBS_PER_STATEMENT):
            last = min(start + _JOBS_PER_STATEMENT, self.jobs) - 1
            yield template.format(
                id=self.id, vo=vo_id, cluster=self.cluster_id, priority=self.priority, descent=-self.priority,
                at=came.isoformat(" "), zero=self.first_job, start=start, last=last, first_event=2 * start,
                last_event=2 * last + 1,
            )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Loaded:
    """A world in a database."""

    world: World
    database_url: str
    vo_id: int
    batches: tuple[Batch, ...]
    site_ids: dict[str, int]
    kind_ids: tuple[int, ...]
    """Of each farm, the row of `resources` that says what its nodes are like."""
    owner_ids: tuple[int, ...]
    seconds: float
    """That loading took, the tables' making not counted."""

    @property
    def jobs(self) -> int:
        """All jobs that there are."""
        return sum(batch.jobs for batch in self.batches)


def load(database_url: str, world: World, *, is_waiting: bool = True) -> Loaded:
    """Load a world into an empty database; unless `is_waiting`, no job is in `waiting_jobs` yet."""
    database = Database(database_url)
    try:
        migration.upgrade(database)
        begun = time.perf_counter()
        loaded = database.transact(lambda tx: _few(tx, database_url, world))
        _many(database, loaded, is_waiting=is_waiting)
    finally:
        database.close()
    seconds = time.perf_counter() - begun
    print(f"{world.name}: {loaded.jobs:,} jobs loaded in {seconds:.0f} s, {loaded.jobs / seconds:,.0f}/s", flush=True)
    return replace(loaded, seconds=seconds)


def _few(tx: Transaction, database_url: str, world: World) -> Loaded:
    """All but the jobs."""
    vo_id = access.ensure_vo(tx, VO)
    owners = {
        (cluster.owner, cluster.group): access.ensure_identity(
            tx, vo_id, "local", f"{cluster.owner}@{cluster.group}", cluster.group
        )
        for cluster in world.clusters
    }
    batches = tuple(_batches(world.clusters, owners))
    _add_clusters(tx, vo_id, world.clusters, owners)
    _add_campaigns(tx, vo_id, world.clusters, batches)
    site_ids, kind_ids = _add_sites(tx, world.farms), _add_kinds(tx, world.farms)
    return Loaded(world, database_url, vo_id, batches, site_ids, kind_ids, tuple(sorted(set(owners.values()))), 0.0)


def _batches(clusters: Sequence[Cluster], owners: dict[tuple[str, str], int]) -> Iterator[Batch]:
    """Ids follow each other, so that the jobs of a campaign do and keys are written in order."""
    random, number, first = Random(len(clusters)), 1, 1
    for cluster_id, cluster in enumerate(clusters, 1):
        for priority, count in cluster.batches:
            owner_id, age = owners[cluster.owner, cluster.group], random.uniform(0, _OLDEST)
            yield Batch(number, cluster_id, owner_id, priority, first, count, age)
            number, first = number + 1, first + count


def _add_clusters(tx: Transaction, vo_id: int, clusters: Sequence[Cluster], owners: dict[tuple[str, str], int]) -> None:
    group_ids = {group: access.ensure_group(tx, vo_id, group) for group in {cluster.group for cluster in clusters}}
    bodies: dict[str, tuple[int, str]] = {}
    rows: list[dict[str, Any]] = []
    for cluster_id, cluster in enumerate(clusters, 1):
        requirement = Requirement.model_validate(cluster.wish)
        signature = requirement.signature()
        requirement_id, _ = bodies.setdefault(signature, (len(bodies) + 1, requirement.model_dump_json()))
        rows.append(
            {
                "id": cluster_id,
                "requirement_id": requirement_id,
                "vo_id": vo_id,
                "group_id": group_ids[cluster.group],
                "owner_id": owners[cluster.owner, cluster.group],
                "job_type": cluster.job_type,
            }
        )
    tx.add_all(requirements, [{"id": number, "signature": key, "body": body} for key, (number, body) in bodies.items()])
    tx.add_all(autoclusters, rows)


def _add_campaigns(tx: Transaction, vo_id: int, clusters: Sequence[Cluster], batches: Sequence[Batch]) -> None:
    """One of one step for each batch."""
    for some in in_chunks(batches):
        tx.add_all(
            campaigns,
            [
                {
                    "id": batch.id,
                    "vo_id": vo_id,
                    "owner_id": batch.owner_id,
                    "name": f"campaign {batch.id}",
                    "state": CampaignState.RUNNING,
                    "created_at": tx.after(-batch.age),
                }
                for batch in some
            ],
        )
        tx.add_all(steps, [_step_row(batch) for batch in some])
        tx.add_all(job_specs, [_spec_row(batch, clusters[batch.cluster_id - 1]) for batch in some])


def _step_row(batch: Batch) -> dict[str, Any]:
    return {
        "id": batch.id,
        "campaign_id": batch.id,
        "name": "work",
        "version": 1,
        "position": 0,
        "state": StepState.RUNNING,
        "after": [],
        "min_success": 1.0,
        "verify": "all",
    }


def _spec_row(batch: Batch, cluster: Cluster) -> dict[str, Any]:
    step = Step.model_validate(
        {
            "name": "work",
            "command": ["work", "--seed", "{n}"],
            "parameters": {"axes": {"n": {"range": [0, batch.jobs]}}},
            "requirements": cluster.wish,
            "priority": batch.priority,
            "job_type": cluster.job_type,
        }
    )
    return {"id": batch.id, "step_id": batch.id, "template": step.model_dump_json(), "sandbox": None}


def _add_sites(tx: Transaction, farms: Sequence[Farm]) -> dict[str, int]:
    """Sites, each with a storage and its site queues, whose ids are the farms' numbers from 1 on."""
    site_ids = {name: number for number, name in enumerate(dict.fromkeys(farm.site for farm in farms), 1)}
    tx.add_all(sites, [{"id": number, "name": name, "declared": True} for name, number in site_ids.items()])
    tx.add(storages, name="disk", kind="file", url="file:///disk", declared=True)
    tx.add_all(site_storages, [{"site_id": number, "storage_id": 1, "position": 0} for number in site_ids.values()])
    queues = [
        {
            "id": number,
            "site_id": site_ids[farm.site],
            "name": farm.queue,
            "entry": farm.declared().model_dump_json(),
            "declared": True,
        }
        for number, farm in enumerate(farms, 1)
    ]
    tx.add_all(site_queues, queues)
    return site_ids


def _add_kinds(tx: Transaction, farms: Sequence[Farm]) -> tuple[int, ...]:
    """What pilots would find their nodes to be like; of each farm, the id."""
    kinds = [NodeKind(**farm.declared().model_dump(include={"system", "architecture", "gpu"})) for farm in farms]
    ids = {signature: number for number, signature in enumerate(dict.fromkeys(kind.signature() for kind in kinds), 1)}
    bodies = {kind.signature(): kind.body() for kind in kinds}
    tx.add_all(resources, [{"id": ids[key], "signature": key, "body": body} for key, body in bodies.items()])
    return tuple(ids[kind.signature()] for kind in kinds)


def _many(database: Database, loaded: Loaded, *, is_waiting: bool) -> None:
    """The tables side by side, each in the order of its key."""
    now = database.now()
    keyed = {"jobs": (_JOBS, loaded.batches), "job_events": (_EVENTS, loaded.batches)}
    if is_waiting:
        keyed["waiting_jobs"] = (_WAITING, _by_key(loaded.batches))
    statements = {
        table: [line for batch in batches for line in batch.statements(template, loaded.vo_id, now)]
        for table, (template, batches) in keyed.items()
    }
    with ThreadPoolExecutor(len(statements)) as pool:
        list(pool.map(lambda table: _fill(database, f"{loaded.world.name}: {table}", statements[table]), statements))
    with database.engine.connect() as connection:
        connection.exec_driver_sql("ANALYZE TABLE jobs, waiting_jobs, autoclusters, requirements")


def _by_key(batches: Sequence[Batch]) -> tuple[Batch, ...]:
    """Batches in the order of the key of `waiting_jobs`."""
    return tuple(sorted(batches, key=lambda batch: (batch.cluster_id, -batch.priority, batch.first_job)))


def _fill(database: Database, name: str, statements: Sequence[str]) -> None:
    """Committed every 100,000 rows or so; prints rows/s."""
    begun, rows, since = time.perf_counter(), 0, 0
    with database.engine.connect() as connection:
        connection.exec_driver_sql("SET SESSION unique_checks = 0, foreign_key_checks = 0")
        for statement in statements:
            count = connection.exec_driver_sql(statement).rowcount
            rows, since = rows + count, since + count
            if since >= _ROWS_PER_COMMIT:
                connection.commit()
                since = 0
        connection.commit()
        connection.invalidate()  # nobody else shall have these settings
    seconds = time.perf_counter() - begun
    print(f"{name}: {rows:,} rows in {seconds:.0f} s, {rows / seconds:,.0f}/s", flush=True)
