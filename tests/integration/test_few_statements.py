"""What is done for many rows at once takes as many statements as for a few."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from sqlalchemy import event, select

from pipeline.store import provisioning, queue_pilots, specs
from pipeline.store.database import Database, Transaction
from pipeline.store.inputs import input_files
from pipeline.store.provisioning_orders import new_tags, request_pilots
from pipeline.store.provisioning_rows import DemandReading
from pipeline.store.tables import datasets, pilots, steps
from schemas.pilots import InputFile
from schemas.states import PilotState
from tests import building
from tests.submitting import all_jobs, array, submit


def statements_of(database: Database, work: Callable[[Transaction], Any]) -> int:
    """How many statements a transaction sends."""
    sent: list[str] = []

    def note(*words: Any) -> None:
        sent.append(words[2])

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        database.transact(work)
    finally:
        event.remove(database.engine, "before_cursor_execute", note)
    return len(sent)


def reading(
    database: Database, campaign_id: int, site_id: int, many: int
) -> Callable[[Transaction], Mapping[int, list[InputFile]]]:
    """Read the input files of the first `many` jobs of the step that reads."""
    found = all_jobs(database, campaign_id)[1 : many + 1]

    def work(tx: Transaction) -> Mapping[int, list[InputFile]]:
        return input_files(tx, found, specs.load(tx, {job.spec_id for job in found}), site_id)

    return work


@pytest.fixture
def campaign(database: Database) -> tuple[int, int]:
    """A campaign of one job that makes files and 30 that read them and one of their own; a site that has them."""
    here = building.site(database, "HERE")
    wanted = ["/data/{n}.root", "/data/all", {"step": "make", "name": "x.root"}, {"step": "make"}]
    made = submit(database, {"name": "make"}, {"name": "read", "after": ["make"], "inputs": wanted, **array(30)})
    campaign_id = made.campaign_id
    query = select(datasets.c.id).join(steps, steps.c.id == datasets.c.step_id)
    mine = query.where(steps.c.campaign_id == campaign_id, steps.c.name == "make")
    dataset_id = database.transact(lambda tx: tx.scalar(mine))
    for name in ("x.root", "y.root"):
        building.file(database, f"/made/{name}", here, dataset_id=dataset_id)
    for name in ("all", *(f"{n}.root" for n in range(30))):
        building.file(database, f"/data/{name}", here)
    return campaign_id, here.id


def test_every_job_gets_its_own_inputs_and_those_of_the_step_before(
    database: Database, campaign: tuple[int, int]
) -> None:
    found = database.transact(reading(database, *campaign, 30)).values()
    assert [[file.lfn for file in files] for files in found] == [
        [f"/data/{n}.root", "/data/all", "/made/x.root", "/made/y.root"] for n in range(30)
    ]
    assert all(len(file.urls) == 1 for files in found for file in files)


def test_the_inputs_of_thirty_jobs_are_read_like_those_of_one(database: Database, campaign: tuple[int, int]) -> None:
    few, many = (statements_of(database, reading(database, *campaign, jobs)) for jobs in (1, 30))
    assert few == many


def test_thirty_submitted_pilots_are_noted_like_one(database: Database) -> None:
    site = building.site(database)
    waiting: dict[str, Any] = {"state": PilotState.REQUESTED, "started_at": None, "last_seen": None, "ends_at": None}
    tags = [f"tag-{number:02}" for number in range(31)]
    for tag in tags:
        building.pilot(database, site, tag=tag, **waiting)
    handles = {tag: queue_pilots.Taken(f"batch-{tag}") for tag in tags}
    one = statements_of(database, lambda tx: queue_pilots.submitted(tx, {tags[0]: handles[tags[0]]}))
    rest = statements_of(database, lambda tx: queue_pilots.submitted(tx, {tag: handles[tag] for tag in tags[1:]}))
    assert one == rest
    rows = database.transact(lambda tx: tx.rows(select(pilots).order_by(pilots.c.tag)))
    assert {row.tag: row.batch_id for row in rows} == {tag: f"batch-{tag}" for tag in tags}
    assert {row.state for row in rows} == {PilotState.SUBMITTED}
    assert all(row.submitted_at for row in rows)


def test_pilots_are_requested_at_thirty_queues_like_at_one(database: Database) -> None:
    for number in range(31):
        building.site(database, f"SITE{number}")
    rooms = database.read(lambda tx: provisioning.situation(tx, DemandReading((), is_sure=True))).rooms
    wanted = [(room, tag) for room in rooms for tag in new_tags(2)]
    one = statements_of(database, lambda tx: request_pilots(tx, wanted[:1]))
    rest = statements_of(database, lambda tx: request_pilots(tx, wanted[1:]))
    assert one == rest
    rows = database.read(lambda tx: tx.rows(select(pilots)))
    assert Counter(row.site_queue_id for row in rows) == {room.site_queue_id: 2 for room in rooms}
    assert {(row.state, row.site_id) for row in rows} == {(PilotState.REQUESTED, room.site_id) for room in rooms}
