"""Heartbeats and offers: what a pilot lists is compared with the rows, and what it has not heard is said again."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import select, update

from pipeline.store import heartbeats, job_commands, offers
from pipeline.store.database import Database
from pipeline.store.job_commands import JobFilter
from pipeline.store.losses import to_publish
from pipeline.store.tables import controls, peeks, pilots, slots
from schemas.messages import JobsReceived, SlotsOffered
from schemas.pilots import AttemptRef, OfferRequest, Report
from schemas.states import JobState, PilotState
from tests import building
from tests.pilot_rows import RULES, Scene, scene, set_job


def offer(at: Scene, *known: AttemptRef, cores: int = 4) -> offers.Offered:
    request = OfferRequest(cores=cores, memory=8192, disk=20_000, time_left=3600, jobs=known)
    return at.as_pilot(lambda tx, pilot: offers.offer(tx, pilot, request, RULES))


def slot(at: Scene) -> tuple[str, int] | None:
    row = at.database.transact(lambda tx: tx.first(select(slots.c.state, slots.c.cores)))
    return None if row is None else (row.state, row.cores)


def test_a_listed_attempt_is_peeked_at_and_not_stopped(database: Database) -> None:
    at = scene(database)
    at.start()
    for tail in ("one", "two"):
        reply, aftermath = at.beat(at.refs(), tail=tail, memory=7)
        assert (reply.stop, reply.drain, aftermath.messages) == ((), False, ())
    (row,) = database.transact(lambda tx: tx.rows(select(peeks)))
    assert (row.tail, row.memory, row.attempt) == ("two", 7, 1)


def test_a_job_absent_from_two_heartbeats_in_a_row_is_lost(database: Database) -> None:
    at = scene(database)
    at.start()
    at.beat([])
    at.beat(at.refs())
    at.beat([])
    assert at.states() == ["running"]
    _, aftermath = at.beat([])
    assert at.states() == ["received"]
    assert at.counted() == 0
    assert [type(message.body) for message in to_publish(database, aftermath)] == [JobsReceived]


def test_an_unconfirmed_assignment_is_not_lost_by_being_left_out(database: Database) -> None:
    at = scene(database)
    for _ in range(3):
        at.beat([])
    assert at.states() == ["matched"]


def test_a_stalled_job_that_is_listed_runs_again_and_a_lost_pilot_lives(database: Database) -> None:
    at = scene(database)
    at.start()
    at.move(JobState.STALLED)
    database.transact(lambda tx: tx.run(update(pilots).values(state=PilotState.LOST)))
    at.beat(at.refs())
    assert at.states() == ["running"]
    assert at.counted() == 1
    assert database.transact(lambda tx: tx.scalar(select(pilots.c.state))) == PilotState.RUNNING


def test_a_kill_is_told_again_until_the_pilot_lists_the_attempt_no_more(database: Database) -> None:
    at = scene(database)
    at.start()
    job_commands.kill(database, at.jobs()[0].vo_id, JobFilter(campaign_id=at.campaign_id))
    for _ in range(2):
        reply, _ = at.beat(at.refs())
        assert [stop.why for stop in reply.stop] == ["kill"]
    at.report(Report(**at.refs()[0].model_dump(), outcome="killed"))
    assert at.states() == ["killed"]


def test_an_attempt_that_went_elsewhere_is_superseded_but_a_reported_one_is_left_alone(database: Database) -> None:
    at = scene(database, 2)
    at.start()
    gone, done = at.refs()
    at.report(Report(**done.model_dump(), outcome="succeeded"))
    set_job(database, gone.job_id, attempt=7)
    reply, _ = at.beat([gone, done])
    assert [(stop.job_id, stop.why) for stop in reply.stop] == [(gone.job_id, "superseded")]


def test_an_unconfirmed_assignment_is_given_again_until_the_pilot_knows_it(database: Database) -> None:
    at = scene(database, 2)
    ids = [ref.job_id for ref in at.refs()]
    assert [job.id for job in offer(at).assigned] == ids
    assert [job.id for job in offer(at).assigned] == ids
    assert slot(at) == ("parked", 4)
    known = offer(at, *at.refs())
    assert known.assigned == ()
    assert [type(message.body) for message in known.messages] == [SlotsOffered]
    assert slot(at) == ("offered", 4)


def test_a_repeated_offer_is_one_slot_and_room_of_attempts_that_went_elsewhere_is_not_free(database: Database) -> None:
    at = scene(database)
    at.start()
    (late,) = at.refs()
    at.move(JobState.RECEIVED)
    offer(at, late)
    offer(at, late)
    assert slot(at) == ("offered", 3)
    offer(at)
    assert slot(at) == ("offered", 4)


def test_served_jobs_are_fetched_and_the_rest_of_the_room_stays_parked(database: Database) -> None:
    at = scene(database)
    offer(at, *at.refs())
    database.transact(lambda tx: tx.run(update(slots).values(state="served")))
    assert database.transact(offers.served) == {at.pilot_id}
    found = database.transact(lambda tx: offers.fetch(tx, at.pilot_id, ()))
    assert [job.id for job in found] == [ref.job_id for ref in at.refs()]
    assert slot(at) == ("parked", 4)
    assert database.transact(offers.served) == frozenset()


def test_a_slot_without_a_free_core_is_not_looked_at_by_what_becomes_waiting(database: Database) -> None:
    at = scene(database, many=4)
    offer(at, *at.refs())
    for job in at.jobs():
        set_job(database, job.id, cores=1)
    database.transact(lambda tx: tx.run(update(slots).values(state="served")))
    assert len(database.transact(lambda tx: offers.fetch(tx, at.pilot_id, ()))) == 4
    assert slot(at) == ("full", 4)
    offer(at, *at.refs()[1:])
    assert slot(at) == ("parked", 4), "what it did not know yet is given at once"
    offer(at, *at.refs())
    assert slot(at) == ("offered", 4)


def test_a_draining_pilot_is_told_so_and_offers_nothing(database: Database) -> None:
    at = scene(database)
    offer(at)
    database.transact(lambda tx: tx.run(update(pilots).values(drain_requested=True)))
    assert at.beat(at.refs())[0].drain
    offered = offer(at)
    assert (offered.drain, offered.messages, slot(at)) == (True, (), None)


def test_service_counts_from_the_end_of_the_last_gap(database: Database) -> None:
    gap = 30.0
    assert database.transact(lambda tx: heartbeats.serving_since(tx, gap)) is None
    database.transact(lambda tx: heartbeats.mark_serving(tx, gap))
    first = database.transact(lambda tx: heartbeats.serving_since(tx, gap))
    assert first is not None
    database.transact(lambda tx: heartbeats.mark_serving(tx, gap))
    assert database.transact(lambda tx: heartbeats.serving_since(tx, gap)) == first
    long_ago = first - timedelta(hours=1)
    database.transact(lambda tx: tx.run(update(controls).values(since=long_ago, at=long_ago)))
    assert database.transact(lambda tx: heartbeats.serving_since(tx, gap)) is None
    database.transact(lambda tx: heartbeats.mark_serving(tx, gap))
    since = database.transact(lambda tx: heartbeats.serving_since(tx, gap))
    assert since is not None
    assert since >= first


def test_two_pilots_of_one_site_do_not_see_each_other(database: Database) -> None:
    at = scene(database)
    at.start()
    other = Scene(database, at.site, building.pilot(database, at.site), at.campaign_id)
    other.beat([])
    other.beat([])
    assert at.states() == ["running"]
