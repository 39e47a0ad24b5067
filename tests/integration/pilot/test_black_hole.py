"""A node on which every job fails at once would eat a campaign: its pilot ends, and the node beside it goes on."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from consumers.matching import SPEC as MATCHING
from consumers.optimisation import SPEC as OPTIMISATION
from pipeline.runtime.spec import Context
from pipeline.store import pilots
from pipeline.store.database import Transaction
from pipeline.store.tables import attempts, jobs, slots, waiting_jobs
from schemas.api import Role
from schemas.messages import Body, JobsReceived, JobsWaiting, Message, SlotsOffered
from schemas.states import JobState, PilotState
from tests import building
from tests.api_server import RunningApi, running_api
from tests.submitting import array, submit, user
from tests.waiting import eventually

MANY = 12
FAILURES = 3


class World:
    """An API, a site, pilots of one core each that are real processes, and what else it takes, turned by hand."""

    def __init__(self, api: RunningApi, pilot_file: Path, folder: Path) -> None:
        self.api = api
        self.site = building.site(api.database)
        self._pilot_file = pilot_file
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []

    def start_pilot(self, host: str, script: str) -> tuple[int, subprocess.Popen[bytes]]:
        """A pilot on a node where the program `work` is this script."""
        folder = self._folder / host
        folder.mkdir()
        (folder / "work").write_text(f"#!/bin/sh\n{script}\n")
        (folder / "work").chmod(0o755)
        tag = str(uuid.uuid4())
        database = self.api.database
        columns = {"tag": tag, "state": PilotState.SUBMITTED, "started_at": None, "last_seen": None}
        pilot_id = building.pilot(database, self.site, vo=self.api.vo, **columns)
        vo_id, queue_id = self.api.vo_id(self.api.vo), self.site.queue_id
        secret = database.transact(lambda tx: pilots.new_secret(tx, queue_id, vo_id, uses=1, valid_for=60.0))
        command = [sys.executable, str(self._pilot_file), "--api-url", self.api.url, "--tag", tag, "--host", host]
        command += ["--workdir", str(folder / "work-dir"), "--cores", "1", "--memory", "4000", "--disk", "4000"]
        path = f"{folder}:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "PENSTOCK_PILOT_SECRET": secret}
        with (folder / "pilot.log").open("wb") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        self._processes.append(process)
        return pilot_id, process

    def turn(self) -> None:
        """Optimisation and matching of all that there is, as their consumers do it."""
        context = Context(self.api.services.settings, self.api.database, "test")
        received, offered, waiting = self.api.database.read(_open)
        for spec, body in (
            (OPTIMISATION, JobsReceived(job_ids=received) if received else None),
            (MATCHING, SlotsOffered(pilot_ids=offered) if offered else None),
            (MATCHING, JobsWaiting(autocluster_ids=waiting) if waiting else None),
        ):
            if body is not None:
                spec.execute(context, [_message(body, self.api)])

    def finished(self) -> int:
        """Jobs whose payload has succeeded."""
        self.turn()
        query = select(jobs.c.id).where(jobs.c.state.in_([JobState.COMPLETING, JobState.DONE]))
        return len(self.api.database.read(lambda tx: tx.rows(query)))

    def shown(self, pilot_id: int) -> dict[str, Any]:
        """A pilot as the API shows it."""
        with self.api.http(self.api.token(Role.USER)) as http:
            return next(item for item in http.get("/v1/pilots").json()["items"] if item["id"] == pilot_id)

    def end(self) -> None:
        """No process is left."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait(30)


def _open(tx: Transaction) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    received = tx.rows(select(jobs.c.id).where(jobs.c.state == JobState.RECEIVED))
    offered = tx.rows(select(slots.c.pilot_id).where(slots.c.state == "offered"))
    waiting = tx.rows(select(waiting_jobs.c.autocluster_id).distinct())
    return (
        tuple(row.id for row in received),
        tuple(row.pilot_id for row in offered),
        tuple(row.autocluster_id for row in waiting),
    )


def _message(body: Body, api: RunningApi) -> Message:
    return Message.about(body, now=api.database.now())


@pytest.fixture
def world(pilot_file: Path, tmp_path: Path) -> Iterator[World]:
    settings: dict[str, Any] = {
        "heartbeat_interval": 0.5,
        "pilot_max_failures": FAILURES,
        "cool_off": 0.01,
        "cool_off_cap": 0.02,
    }
    with running_api(tmp_path, **settings) as api:
        made = World(api, pilot_file, tmp_path)
        yield made
        made.end()


def test_a_node_that_fails_every_job_ends_its_pilot_and_its_neighbour_goes_on(world: World) -> None:
    step = {"name": "s", "command": ["work"], "retries": {"payload": 50}, **array(MANY)}
    submit(world.api.database, step, owner=user(world.api.database, world.api.vo))
    good, neighbour = world.start_pilot("good-node", "exit 0")
    eventually(world.finished, within=60)
    bad, black_hole = world.start_pilot("bad-node", "exit 1")

    def ended() -> bool:
        world.turn()
        return black_hole.poll() is not None

    assert eventually(ended, within=60)
    assert black_hole.returncode == 0
    view = world.shown(bad)
    assert (view["state"], view["host"], view["failures_in_row"]) == ("done", "bad-node", FAILURES)
    assert view["reason"].startswith(f"node bad-node failed {FAILURES} jobs in a row; no jobs until ")
    eventually(lambda: world.finished() == MANY, within=60)
    assert neighbour.poll() is None
    query = select(attempts.c.pilot_id, attempts.c.outcome).distinct()
    ends = {(row.pilot_id, row.outcome) for row in world.api.database.read(lambda tx: tx.rows(query))}
    assert ends == {(good, "succeeded"), (bad, "payload_failed")}
    assert (world.shown(good)["draining"], world.shown(good)["failures_in_row"]) == (False, 0)
