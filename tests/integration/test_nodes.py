"""Nodes that fail job after job get no more; those beside them, and nodes on which broken jobs ran, go on."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import select, update

from pipeline.store import nodes, pilot_queries, pilots
from pipeline.store.database import Database
from pipeline.store.tables import nodes as nodes_table
from pipeline.store.tables import pilots as pilots_table
from pipeline.store.tables import resources
from schemas.nodes import NodeKind
from schemas.pilot_views import PilotQuery, PilotView
from schemas.pilots import AttemptRef, EnrolRequest, Report
from schemas.resources import System
from schemas.states import JobState, PilotState
from tests import building
from tests.pilot_rows import RULES, Scene, match, scene
from tests.submitting import TO_COMPLETING, array, move, submit

NODE: dict[str, Any] = {"host": "node1", "cores": 4, "memory": 8192, "disk": 20_000}
BAD = "node node1 failed 5 jobs in a row; no jobs until "


def ended(ref: AttemptRef, outcome: str) -> Report:
    return Report.model_validate({**ref.model_dump(), "outcome": outcome})


def on(host: str) -> dict[str, Any]:
    """The column by which a pilot's host is known."""
    return {"node": json.dumps({**NODE, "host": host})}


def at_node(database: Database, many: int, host: str = "node1", **step: Any) -> Scene:
    """So many running jobs of a pilot on this host."""
    at = scene(database, many, **step)
    mine = update(pilots_table).where(pilots_table.c.id == at.pilot_id)
    database.transact(lambda tx: tx.run(mine.values(on(host))))
    at.start()
    return at


def report(at: Scene, *outcomes: str) -> None:
    """The ends of jobs, the first ones first, in a report each."""
    refs = [ref for job, ref in zip(at.jobs(), at.refs(), strict=True) if job.state is JobState.RUNNING]
    for ref, outcome in zip(refs, outcomes, strict=False):
        at.report(ended(ref, outcome))


def succeeds_elsewhere(at: Scene) -> None:
    """One job of the step, the last one, is done by another pilot."""
    last = at.jobs()[-1]
    move(at.database, [last.id], JobState.RECEIVED)
    move(at.database, [last.id], *TO_COMPLETING, pilot_id=building.pilot(at.database, at.site, **on("elsewhere")))


def shown(database: Database, pilot_id: int) -> PilotView:
    """The pilot as its VO sees it."""
    vo_id = database.transact(lambda tx: tx.scalar(select(pilots_table.c.vo_id).where(pilots_table.c.id == pilot_id)))
    views = database.read(
        lambda tx: pilot_queries.list_pilots(tx, vo_id, PilotQuery(), most=1000, max_failures=RULES.max_failures)
    )
    return next(view for view in views if view.id == pilot_id)


def drains(database: Database, pilot_id: int) -> bool:
    """Whether matching gives it no more, and its next heartbeat says so."""
    row = database.transact(lambda tx: pilots.lock(tx, pilot_id))
    assert row.drains(RULES) == row.drain_requested
    return row.drain_requested


def test_a_node_that_fails_job_after_job_takes_all_of_its_pilots_along_and_no_others(database: Database) -> None:
    at = at_node(database, 6)
    same = building.pilot(database, at.site, **on("node1"))
    of_other_vo = building.pilot(database, at.site, vo="other", **on("node1"))
    beside = building.pilot(database, at.site, **on("node10"))
    capital = building.pilot(database, at.site, **on("NODE1"))
    elsewhere = building.pilot(database, building.site(database, "ELSEWHERE"), **on("node1"))
    unknown = building.pilot(database, at.site)
    report(at, *["infrastructure_failed"] * 4)
    assert shown(database, at.pilot_id).failures_in_row == 4
    assert not drains(database, at.pilot_id)
    report(at, "infrastructure_failed")
    assert [drains(database, one) for one in (at.pilot_id, same, of_other_vo)] == [True] * 3
    assert [drains(database, one) for one in (beside, capital, elsewhere, unknown)] == [False] * 4
    view = shown(database, at.pilot_id)
    assert (view.host, view.failures_in_row, view.draining) == ("node1", 5, True)
    assert (view.reason or "").startswith(BAD)
    assert shown(database, same).reason == view.reason
    assert not shown(database, beside).draining


def test_the_neighbour_hears_of_it_with_its_next_heartbeat(database: Database) -> None:
    at = at_node(database, 5)
    same = Scene(database, at.site, building.pilot(database, at.site, **on("node1")), at.campaign_id)
    assert not same.beat([])[0].drain
    report(at, *["infrastructure_failed"] * 5)
    assert same.beat([])[0].drain


def test_payload_failures_count_where_the_step_has_succeeded_elsewhere(database: Database) -> None:
    at = at_node(database, 7)
    succeeds_elsewhere(at)
    report(at, *["payload_failed"] * 3, "infrastructure_failed")
    assert not drains(database, at.pilot_id)
    report(at, "payload_failed")
    assert drains(database, at.pilot_id)
    assert (shown(database, at.pilot_id).reason or "").startswith(BAD)


def test_a_campaign_that_fails_everywhere_drains_no_pilot(database: Database) -> None:
    at = at_node(database, 8)
    report(at, *["payload_failed"] * 8)
    assert shown(database, at.pilot_id).failures_in_row == 0
    assert not drains(database, at.pilot_id)
    assert database.transact(lambda tx: tx.rows(select(nodes_table))) == []


def test_a_success_of_another_step_proves_nothing(database: Database) -> None:
    at = at_node(database, 6)
    other = submit(database, {"name": "other", **array(1)})
    assert other.campaign_id != at.campaign_id
    there = Scene(database, at.site, building.pilot(database, at.site), other.campaign_id)
    there.assign()
    there.start()
    report(there, "succeeded")
    report(at, *["payload_failed"] * 6)
    assert not drains(database, at.pilot_id)


def test_a_success_forgives_what_went_before_and_a_broken_payload_changes_nothing(database: Database) -> None:
    at = at_node(database, 10)
    report(at, *["infrastructure_failed"] * 4)
    report(at, "payload_failed", "killed")
    assert shown(database, at.pilot_id).failures_in_row == 4
    report(at, "succeeded")
    assert shown(database, at.pilot_id).failures_in_row == 0
    report(at, *["infrastructure_failed"] * 3)
    assert not drains(database, at.pilot_id)


def test_a_node_that_does_not_say_its_name_ends_its_own_pilot_alone(database: Database) -> None:
    at = at_node(database, 5, "localhost")
    other = building.pilot(database, at.site, **on("localhost"))
    report(at, *["infrastructure_failed"] * 5)
    assert (drains(database, at.pilot_id), drains(database, other)) == (True, False)


@pytest.mark.parametrize(("failing", "rests"), [(9, True), (10, False)])
def test_no_node_rests_for_what_fails_on_many_others_too(database: Database, failing: int, *, rests: bool) -> None:
    at = at_node(database, 6)
    for number in range(failing):
        building.pilot(database, at.site, failures_in_row=1, **on(f"other{number}"))
    for _ in range(10):
        building.pilot(database, at.site, failures_in_row=3, **on("node1"))
        building.pilot(database, at.site, failures_in_row=3, vo="other", **on("elsewhere"))
    report(at, *["infrastructure_failed"] * 6)
    assert drains(database, at.pilot_id) is rests
    assert shown(database, at.pilot_id).failures_in_row == (6 if rests else 4)


def enrol(database: Database, site: building.Site, host: str, **node: Any) -> int:
    """A pilot that is let in now."""
    tag = f"tag-{host}"
    pilot_id = building.pilot(
        database, site, tag=tag, state=PilotState.SUBMITTED, started_at=None, last_seen=None, ends_at=None
    )
    vo_id = database.transact(lambda tx: tx.scalar(select(pilots_table.c.vo_id).limit(1)))
    secret = database.transact(lambda tx: pilots.new_secret(tx, site.queue_id, vo_id, uses=1, valid_for=60.0))
    request = EnrolRequest.model_validate(
        {"protocol": 1, "secret": secret, "tag": tag, "node": {**NODE, "host": host, **node}}
    )
    assert database.transact(lambda tx: pilots.enrol(tx, request, 300.0)).pilot_id == pilot_id
    return pilot_id


def test_nodes_that_are_alike_are_one_kind(database: Database) -> None:
    at = building.site(database)
    alike = {"details": {"system_name": "Linux", "machine": "x86_64", "level": 3, "user_namespaces": True}}
    ids = [
        enrol(database, at, "node1", **alike, glibc="2.34"),
        enrol(database, at, "node2", **alike, glibc="2.34", cores=64, memory=256_000, python="3.12"),
        enrol(database, at, "node3", **alike, glibc="2.17"),
    ]
    query = select(pilots_table.c.resource_id).where(pilots_table.c.id.in_(ids)).order_by(pilots_table.c.id)
    first, second, third = (row.resource_id for row in database.transact(lambda tx: tx.rows(query)))
    assert first == second != third
    body = database.transact(lambda tx: tx.scalar(select(resources.c.body).where(resources.c.id == third)))
    assert NodeKind.model_validate_json(body).system == System(name="linux", glibc="2.17", user_namespaces=True)


def test_a_pilot_that_comes_to_a_resting_node_is_sent_home_until_the_rest_is_over(database: Database) -> None:
    at = at_node(database, 5)
    report(at, *["infrastructure_failed"] * 5)
    assert not drains(database, enrol(database, at.site, "node2"))
    come = enrol(database, at.site, "node1")
    assert drains(database, come)
    assert (shown(database, come).reason or "").startswith(BAD)
    database.transact(lambda tx: tx.run(update(nodes_table).values(bad_until=tx.now)))
    assert database.transact(lambda tx: nodes.resting(tx, at.site.id, "node1")) is None


def test_why_a_pilot_had_to_drain_outlives_its_end(database: Database) -> None:
    at = at_node(database, 5)
    report(at, *["infrastructure_failed"] * 5)
    ending = pilots.Ending(PilotState.DONE, "drain was told")
    database.transact(lambda tx: pilots.end(tx, at.pilot_id, ending, RULES))
    view = shown(database, at.pilot_id)
    assert (view.state, view.draining) == (PilotState.DONE, False)
    assert (view.reason or "").startswith(BAD)


def test_two_pilots_of_one_node_may_come_to_that_at_once(database: Database) -> None:
    at = at_node(database, 5)
    second = scene_beside(database, at)
    report(at, *["infrastructure_failed"] * 4)
    report(second, *["infrastructure_failed"] * 4)
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda one: report(one, "infrastructure_failed"), (at, second)))
    assert [drains(database, one.pilot_id) for one in (at, second)] == [True, True]
    assert len(database.transact(lambda tx: tx.rows(select(nodes_table)))) == 1


def scene_beside(database: Database, at: Scene) -> Scene:
    """Another pilot on the same node with as many running jobs."""
    submitted = submit(database, {"name": "s", **array(5)})
    made = Scene(database, at.site, building.pilot(database, at.site, **on("node1")), submitted.campaign_id)
    match(database, made.jobs(), at.site, made.pilot_id)
    made.start()
    return made
