"""Drains: what they ban and tell, what they report, how they are latched, and what lifting takes back."""

from __future__ import annotations

import threading
from collections import Counter
from datetime import timedelta
from functools import partial
from typing import Any
from unittest.mock import Mock

import pytest
import structlog
from sqlalchemy import func, select, update

from consumers.optimisation import SPEC
from executors.upkeep import drains as duty
from pipeline.errors import BadInput, Conflict, DatabaseUnavailable, NotFound
from pipeline.runtime.spec import Context
from pipeline.settings import Settings
from pipeline.store import bans, drain_pilots, drain_reports, drains, instances
from pipeline.store.access import ensure_vo
from pipeline.store.database import Database, Transaction
from pipeline.store.drains import EVERYTHING, Aim, Drain, Order
from pipeline.store.instances import Identity, Load, Pulse, Wish
from pipeline.store.tables import bans as bans_table
from pipeline.store.tables import deferred_messages, pilots, sites
from pipeline.store.tables import drains as drains_table
from pipeline.store.tables import instances as instances_table
from pipeline.store.tables import jobs as jobs_table
from schemas.drain_views import DrainKind, DrainReport, DrainState, Thing
from schemas.messages import JobsReceived, about_ids
from schemas.states import JOB_ON_PILOT, PILOT_FINAL, PILOT_PENDING, JobState, PilotState
from tests import building
from tests.backlog import person, received, waiting
from tests.pilot_rows import set_job
from tests.submitting import move

ALL = Aim(DrainKind.ALL, EVERYTHING)
ON_PILOTS = (JobState.MATCHED, JobState.RUNNING, JobState.STALLED, JobState.COMPLETING)


def site_aim(name: str, vo_id: int | None = None) -> Aim:
    return Aim(DrainKind.SITE, name, vo_id)


def begin(database: Database, aim: Aim, **order: Any) -> Drain:
    """Drain by `ada`, pilots told."""
    drain = database.transact(lambda tx: drains.start(tx, aim, Order("ada", **order)))
    drain_pilots.tell(database, drain)
    return drain


def lift(database: Database, aim: Aim) -> Drain | None:
    return database.transact(lambda tx: drains.lift(tx, aim, "bob"))


def report(database: Database, drain: Drain, seen_by: int | None = None) -> DrainReport:
    return database.read(lambda tx: drain_reports.report(tx, drains.find(tx, drain.id), seen_by=seen_by))


def upkeep(database: Database) -> list[Any]:
    return duty.run(Context(Settings(), database, "upkeep"))


def age(database: Database, drain: Drain, **columns: float) -> None:
    """Set times of a drain to so many seconds ago."""

    def work(tx: Transaction) -> None:
        values = {name: tx.after(-seconds) for name, seconds in columns.items()}
        tx.run(update(drains_table).where(drains_table.c.id == drain.id).values(values))

    database.transact(work)


def on_pilots(database: Database, vo: str, at: building.Site, states: tuple[JobState, ...]) -> list[int]:
    """A job of the VO in each of these states, on a pilot of its own at the site."""
    owner = person(database, vo)
    found = waiting(database, owner, len(states), requirements={"wall_time": 600})
    for job_id, state in zip(found, states, strict=True):
        place = {"pilot_id": building.pilot(database, at, vo=vo), "site_id": at.id}
        move(database, [job_id], JobState.MATCHED, **place)
        if state is not JobState.MATCHED:
            move(database, [job_id], JobState.RUNNING)
        if state in {JobState.STALLED, JobState.COMPLETING}:
            move(database, [job_id], state)
    return found


def counted(found: DrainReport, what: Thing) -> Counter[tuple[str | None, str | None, str | None]]:
    """The lines of a report about one kind of thing: (site, VO, state) and how many."""
    total: Counter[tuple[str | None, str | None, str | None]] = Counter()
    for line in found.left:
        if line.what is what:
            total[line.site, line.vo, line.state] += line.count
    return total


def stored(database: Database, table: Any, states: Any, **where: Any) -> Counter[Any]:
    """Plain counts of rows by site, VO and state."""
    columns = (table.c.site_id, table.c.vo_id, table.c.state)
    query = select(*columns, func.count().label("many")).where(table.c.state.in_(states)).group_by(*columns)
    for name, value in where.items():
        query = query.where(table.c[name] == value)
    return Counter({(row.site_id, row.vo_id, row.state): row.many for row in database.read(lambda tx: tx.rows(query))})


def banned(database: Database) -> set[tuple[int, int | None]]:
    return database.read(bans.banned_queues)


def test_a_report_equals_what_the_tables_hold(database: Database) -> None:
    here, there = building.site(database, "HERE"), building.site(database, "THERE")
    vos = {name: database.transact(partial(ensure_vo, name=name)) for name in ("a", "b")}
    for at in (here, there):
        on_pilots(database, "a", at, (*ON_PILOTS, JobState.RUNNING))
        on_pilots(database, "b", at, ON_PILOTS)
        for state in PilotState:
            building.pilot(database, at, vo="b", state=state)
    waiting(database, person(database, "a"), 7)
    names = {here.id: "HERE", there.id: "THERE"}
    of_vo = {vo_id: name for name, vo_id in vos.items()}
    live = [state for state in PilotState if state not in PILOT_FINAL]
    aims = {
        site_aim("HERE"): {"site_id": here.id},
        site_aim("HERE", vos["a"]): {"site_id": here.id, "vo_id": vos["a"]},
        Aim(DrainKind.VO, "b", vos["b"]): {"vo_id": vos["b"]},
        ALL: {},
    }
    for aim, where in aims.items():
        found = report(database, begin(database, aim))
        for what, table, states in ((Thing.JOBS, jobs_table, JOB_ON_PILOT), (Thing.PILOTS, pilots, live)):
            plain = stored(database, table, states, **where)
            assert counted(found, what) == Counter(
                {(names[at], of_vo[vo], state): many for (at, vo, state), many in plain.items()}
            )
        assert all(line.why and line.holds for line in found.left)


def test_what_is_left_says_how_long_it_may_take(database: Database) -> None:
    at = building.site(database)
    (running, matched, completing) = on_pilots(
        database, "a", at, (JobState.RUNNING, JobState.MATCHED, JobState.COMPLETING)
    )
    moment = database.now()
    set_job(database, running, changed_at=moment.replace(year=moment.year - 1))
    drain = begin(database, site_aim(at.name))
    lines = {line.state: line for line in report(database, drain).left if line.what is Thing.JOBS}
    assert lines["running"].seconds_left == 0.0, "its wall time is over"
    assert lines["matched"].seconds_left == 600.0
    assert lines["completing"].seconds_left is None
    (pilot_line,) = {line.why: line for line in report(database, drain).left if line.what is Thing.PILOTS}.values()
    assert "after those that they have" in pilot_line.why
    assert matched
    assert completing


def test_a_drained_site_gets_nothing_new_and_its_pilots_are_told(database: Database) -> None:
    at, other = building.site(database, "S"), building.site(database, "OTHER")
    ids = {state: building.pilot(database, at, state=state) for state in PilotState}
    elsewhere = building.pilot(database, other)
    drain = begin(database, site_aim("S"), why="cooling")
    assert banned(database) == {(at.queue_id, None)}
    rows = {row.id: row for row in database.read(lambda tx: tx.rows(select(pilots)))}
    assert {state for state, one in ids.items() if rows[one].remove_requested} == PILOT_PENDING
    assert {state for state, one in ids.items() if rows[one].drain_requested} == {PilotState.RUNNING, PilotState.LOST}
    assert rows[ids[PilotState.RUNNING]].reason == f"drained by ada: cooling (drain {drain.id})"
    assert not rows[elsewhere].drain_requested


def test_a_pilot_that_came_after_the_drain_began_is_told_by_upkeep(database: Database) -> None:
    at = building.site(database)
    begin(database, site_aim(at.name))
    late = building.pilot(database, at, state=PilotState.REQUESTED)
    (message,) = upkeep(database)
    assert message.body.ids() == (at.queue_id,)
    assert database.read(lambda tx: tx.scalar(select(pilots.c.remove_requested).where(pilots.c.id == late)))
    assert upkeep(database) == []


def test_whoever_begins_a_drain_may_die_at_once(database: Database) -> None:
    """Its row and its bans are one transaction; the rest is upkeep's, too."""
    at = building.site(database)
    running, pending = building.pilot(database, at), building.pilot(database, at, state=PilotState.QUEUED)
    database.transact(lambda tx: drains.start(tx, ALL, Order("ada")))
    upkeep(database)
    rows = {row.id: row for row in database.read(lambda tx: tx.rows(select(pilots)))}
    assert (rows[running].drain_requested, rows[pending].remove_requested) == (True, True)


@pytest.mark.parametrize("of_vo", [False, True])
def test_a_site_that_comes_later_is_banned_too(database: Database, of_vo: bool) -> None:
    first = building.site(database, "FIRST")
    vo_id = database.transact(partial(ensure_vo, name="a"))
    begin(database, Aim(DrainKind.VO, "a", vo_id) if of_vo else ALL)
    later = building.site(database, "LATER")
    upkeep(database)
    whose = vo_id if of_vo else None
    assert banned(database) == {(first.queue_id, whose), (later.queue_id, whose)}
    upkeep(database)
    assert database.read(lambda tx: tx.scalar(select(func.count()).select_from(bans_table))) == 2


def test_lifting_takes_back_its_own_bans_and_no_others(database: Database) -> None:
    at, other = building.site(database, "S"), building.site(database, "T")
    vo_id = database.transact(partial(ensure_vo, name="a"))
    by_hand = building.ban(database, at)
    begin(database, site_aim("S"))
    of_all = begin(database, ALL)
    begin(database, site_aim("S", vo_id))
    assert lift(database, site_aim("S")) is not None
    assert banned(database) == {(at.queue_id, None), (other.queue_id, None), (at.queue_id, vo_id)}
    in_force = database.read(lambda tx: tx.rows(select(bans_table).where(bans_table.c.lifted_at.is_(None))))
    assert {(row.id == by_hand, row.drain_id == of_all.id) for row in in_force if row.vo_id is None} == {
        (True, False),
        (False, True),
    }
    assert lift(database, ALL) is not None
    assert lift(database, ALL) is None
    assert {row.site_id for row in in_force if row.id == by_hand} == {at.id}
    assert banned(database) == {(at.queue_id, None), (at.queue_id, vo_id)}


def test_allowing_a_site_leaves_a_drains_ban_in_force(database: Database) -> None:
    at = building.site(database, "S")
    vo_id = database.transact(partial(ensure_vo, name="a"))
    building.ban(database, at, vo="a")
    begin(database, Aim(DrainKind.VO, "a", vo_id))
    lifted = database.transact(lambda tx: bans.allow(tx, bans.Scope(vo_id, "S"), by="bob"))
    assert [one.banned_by for one in lifted] == ["test"]
    assert banned(database) == {(at.queue_id, vo_id)}


def test_a_drain_is_latched_when_nothing_is_left_and_stays_so(database: Database) -> None:
    at = building.site(database)
    pilot_id = building.pilot(database, at)
    drain = begin(database, site_aim(at.name), seconds=60.0)
    upkeep(database)
    assert report(database, drain).state is DrainState.DRAINING
    ended = update(pilots).where(pilots.c.id == pilot_id).values(state=PilotState.DONE)
    database.transact(lambda tx: tx.run(ended))
    upkeep(database)
    assert report(database, drain).state is DrainState.DRAINING, "a plan made before the bans may still be written"
    age(database, drain, started_at=drains.SETTLE + 1)
    upkeep(database)
    latched = report(database, drain)
    assert (latched.state, latched.left) == (DrainState.DRAINED, ())
    building.pilot(database, at)
    age(database, drain, deadline_at=1.0)
    upkeep(database)
    after = report(database, drain)
    assert (after.state, after.drained_at) == (DrainState.DRAINED, latched.drained_at)
    assert len(after.left) == 1, "what came since is told"


def test_whoever_sees_that_nothing_is_left_latches_it_but_no_vo_for_others(database: Database) -> None:
    """Over the API, too: upkeep may be away."""
    at = building.site(database)
    mine, theirs = (database.transact(partial(ensure_vo, name=name)) for name in ("a", "b"))
    building.pilot(database, at, vo="b")
    own, whole = begin(database, Aim(DrainKind.VO, "a", mine)), begin(database, site_aim(at.name))
    for drain in (own, whole):
        age(database, drain, started_at=drains.SETTLE + 1)
    assert drain_reports.judge(database, own.id, seen_by=mine).state is DrainState.DRAINED
    assert drain_reports.judge(database, whole.id, seen_by=mine).state is DrainState.DRAINING
    with pytest.raises(NotFound):
        drain_reports.judge(database, own.id, seen_by=theirs)
    database.transact(lambda tx: tx.run(update(pilots).values(state=PilotState.DONE)))
    assert drain_reports.judge(database, whole.id, seen_by=mine).state is DrainState.DRAINED


def test_an_overdue_drain_says_so_and_kills_only_if_it_was_asked_to(database: Database) -> None:
    at, other = building.site(database, "S"), building.site(database, "T")
    for place in (at, other):
        on_pilots(database, "a", place, (JobState.RUNNING,))
        building.pilot(database, place, state=PilotState.QUEUED)
    gentle = begin(database, site_aim("S"), seconds=0.0)
    begin(database, site_aim("T"), seconds=60.0, kills=True)
    upkeep(database)

    def told(place: building.Site) -> list[bool]:
        query = select(pilots.c.remove_requested).where(pilots.c.site_id == place.id).order_by(pilots.c.id)
        return [row.remove_requested for row in database.read(lambda tx: tx.rows(query))]

    assert (told(at), told(other)) == ([False, True], [False, True])
    found = report(database, gentle)
    assert found.state is DrainState.OVERDUE
    assert counted(found, Thing.JOBS) == {("S", "a", "running"): 1}
    hastened = begin(database, site_aim("T"), seconds=0.0, kills=True)
    upkeep(database)
    assert (told(at), told(other)) == ([False, True], [True, True])
    assert {line.why for line in report(database, hastened).left if line.what is Thing.PILOTS} >= {
        "their batch systems are asked to end them now"
    }
    with pytest.raises(BadInput, match="takes a deadline"):
        begin(database, site_aim("S"), kills=True)


def test_jobs_that_can_run_nowhere_are_held_and_woken_when_the_drain_is_lifted(database: Database) -> None:
    building.site(database)
    drain = begin(database, ALL)
    owner = person(database, "default")
    ids = received(database, owner, 3)
    context = Context(Settings(), database, "test")
    now = database.now()
    SPEC.execute(context, about_ids(JobsReceived, ids, now=now))
    query = select(jobs_table.c.state, jobs_table.c.reason)
    assert {row.state for row in database.read(lambda tx: tx.rows(query))} == {"held"}
    assert upkeep(database) == []
    lift(database, ALL)
    assert upkeep(database) == [], "one may still be held by what was decided before"
    age(database, drain, lifted_at=drains.SETTLE + 1)
    woken = upkeep(database)
    assert sorted(i for message in woken for i in message.body.ids()) == ids
    SPEC.execute(context, about_ids(JobsReceived, ids, now=now))
    assert {row.state for row in database.read(lambda tx: tx.rows(query))} == {"waiting"}
    move(database, ids, JobState.RECEIVED, JobState.HELD)
    assert upkeep(database) == [], "once is enough: all held jobs are many"


def test_jobs_are_woken_though_upkeep_was_killed_before_it_had_done_so(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = received(database, person(database, "default"), 2)
    move(database, ids, JobState.HELD)
    drain = begin(database, ALL)
    lift(database, ALL)
    age(database, drain, lifted_at=drains.SETTLE + 1)
    with monkeypatch.context() as killed:
        killed.setattr("executors.upkeep.held.wake", Mock(side_effect=DatabaseUnavailable("away")))
        with pytest.raises(DatabaseUnavailable):
            upkeep(database)
    assert sorted(i for message in upkeep(database) for i in message.body.ids()) == ids
    assert upkeep(database) == []


def test_a_vos_drain_that_is_lifted_wakes_its_own_jobs_alone(database: Database) -> None:
    ids = {name: received(database, person(database, name), 2) for name in ("a", "b")}
    for some in ids.values():
        move(database, some, JobState.HELD)
    aim = Aim(DrainKind.VO, "a", database.transact(partial(ensure_vo, name="a")))
    drain = begin(database, aim)
    lift(database, aim)
    age(database, drain, lifted_at=drains.SETTLE + 1)
    assert sorted(i for message in upkeep(database) for i in message.body.ids()) == ids["a"]


def test_each_state_of_a_drain_is_said_once_whoever_saw_it(database: Database) -> None:
    at = building.site(database)
    pilot_id = building.pilot(database, at)
    drain = begin(database, site_aim(at.name), seconds=60.0)
    with structlog.testing.capture_logs() as said:
        upkeep(database)
        upkeep(database)
        age(database, drain, deadline_at=1.0, started_at=drains.SETTLE + 1)
        upkeep(database)
        upkeep(database)
        database.transact(lambda tx: tx.run(update(pilots).where(pilots.c.id == pilot_id).values(state="done")))
        assert drain_reports.judge(database, drain.id).state is DrainState.DRAINED, "by `--wait`, or over the API"
        upkeep(database)
        lift(database, site_aim(at.name))
        age(database, drain, lifted_at=drains.SETTLE + 1)
        upkeep(database)
        upkeep(database)
    assert [line["event"] for line in said] == ["drain_begun", "drain_overdue", "drain_done", "drain_lifted"]
    assert said[1]["left"] == 1


def test_two_that_drain_the_same_at_once_make_one_drain_of_it(database: Database) -> None:
    building.site(database, "S")
    found: list[int] = []
    gate = threading.Barrier(4)

    def work() -> None:
        gate.wait()
        found.append(begin(database, site_aim("S")).id)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert database.read(lambda tx: tx.scalar(select(func.count()).select_from(bans_table))) == 1


def test_a_drain_that_is_given_again_keeps_what_is_not(database: Database) -> None:
    at = building.site(database)
    drain = begin(database, site_aim(at.name), seconds=60.0, kills=True, why="switches")
    longer = begin(database, site_aim(at.name), seconds=600.0)
    assert (longer.id, longer.kills, longer.why) == (drain.id, True, "switches")
    assert longer.deadline_at is not None
    assert drain.deadline_at is not None
    assert longer.deadline_at > drain.deadline_at
    told = begin(database, site_aim(at.name), why="and routers")
    assert (told.deadline_at, told.kills, told.why) == (longer.deadline_at, True, "and routers")
    assert database.read(lambda tx: tx.scalar(select(bans_table.c.why))) == "and routers"


def test_what_is_not_there_is_not_drained(database: Database) -> None:
    with pytest.raises(NotFound, match="there is no site 'NOWHERE'"):
        begin(database, site_aim("NOWHERE"))
    with pytest.raises(NotFound, match="there is no instance 'nobody'"):
        begin(database, Aim(DrainKind.INSTANCE, "nobody"))
    with pytest.raises(NotFound, match=r"there is no instance 'n+'"):
        begin(database, Aim(DrainKind.INSTANCE, "n" * 1000))
    assert database.read(lambda tx: tx.first(select(drains_table))) is None
    assert database.read(lambda tx: tx.first(select(sites))) is None


def consumer(database: Database, name: str, *, loads: dict[str, int], tells: bool = True) -> instances.Wishes:
    """A beat of a consumer of these queues with so many messages of each in flight; what is wished of it."""
    known = Identity(name, "consumer", tuple(loads) or ("matching",), "1", "here", 1, None)
    told = tuple(Load(queue, many, None) for queue, many in loads.items()) if tells else ()
    pulse = Pulse(in_flight=sum(loads.values()), loads=told)
    return database.transact(lambda tx: instances.beat(tx, known, pulse))


def test_a_queue_is_drained_when_those_who_served_it_have_ended(database: Database) -> None:
    consumer(database, "one", loads={"matching": 3})
    consumer(database, "several", loads={"matching": 2, "data": 5})
    consumer(database, "other", loads={"data": 1})
    row = {"message_id": "m", "queue": "matching", "payload": "{}", "reason": "later"}
    database.transact(lambda tx: tx.add(deferred_messages, **row, due_at=tx.after(60)))
    aim = Aim(DrainKind.QUEUE, "matching")
    drain = begin(database, aim)
    consumer(database, "late", loads={"matching": 9})
    found = report(database, drain)
    assert {(line.instance, line.what.value, line.count, line.holds) for line in found.left} == {
        ("one", "messages", 3, True),
        ("one", "processes", 1, True),
        ("several", "messages", 2, True),
        ("several", "processes", 1, True),
        (None, "messages", 1, False),
    }
    assert consumer(database, "one", loads={"matching": 1}).queues == {"matching": Wish.DRAIN}
    database.transact(lambda tx: instances.leave(tx, "one"))
    known = Identity("several", "consumer", ("matching", "data"), "1", "here", 1, None)
    database.transact(lambda tx: instances.beat(tx, known, Pulse(5, loads=(Load("data", 5, None),))))
    upkeep(database)
    assert report(database, drain).state is DrainState.DRAINED
    again = begin(database, aim)
    assert again.id != drain.id, "it concerns those who serve it now"
    assert {line.instance for line in report(database, again).holding} == {"late"}
    assert report(database, drain).state is DrainState.LIFTED


@pytest.mark.parametrize("taken_back_by", ["resume", "pause", "undrain"])
def test_a_queues_drain_ends_with_its_wish(database: Database, taken_back_by: str) -> None:
    consumer(database, "one", loads={"matching": 3})
    aim = Aim(DrainKind.QUEUE, "matching")
    drain = begin(database, aim)
    if taken_back_by == "undrain":
        lift(database, aim)
    elif taken_back_by == "pause":
        database.transact(lambda tx: instances.pause(tx, "matching", "bob"))
    else:
        database.transact(lambda tx: instances.resume(tx, "matching"))
    upkeep(database)
    assert report(database, drain).state is DrainState.LIFTED
    wished = {control.wish for control in database.read(instances.controls)}
    assert wished == ({Wish.PAUSE} if taken_back_by == "pause" else set())


def test_a_drain_takes_no_pause_back(database: Database) -> None:
    consumer(database, "one", loads={"matching": 3})
    database.transact(lambda tx: instances.pause(tx, "matching", "bob"))
    with pytest.raises(Conflict, match="matching is paused"):
        begin(database, Aim(DrainKind.QUEUE, "matching"))
    begin(database, Aim(DrainKind.INSTANCE, "one"))
    assert consumer(database, "later", loads={"matching": 0}).queues == {"matching": Wish.PAUSE}
    assert [drain.kind for drain in database.read(drains.all_in_force)] == [DrainKind.INSTANCE]


@pytest.mark.parametrize("aim", [Aim(DrainKind.INSTANCE, "one"), Aim(DrainKind.QUEUE, "matching")])
def test_an_outage_of_the_database_ends_no_drain(database: Database, aim: Aim) -> None:
    consumer(database, "one", loads={"matching": 3})
    drain = begin(database, aim)
    outage = update(instances_table).values(last_seen=database.now() - timedelta(seconds=100))
    for _ in range(2):
        database.transact(lambda tx: tx.run(outage))
        upkeep(database)
        assert report(database, drain).state is DrainState.DRAINING, "it beats again in a moment"
        consumer(database, "one", loads={"matching": 3})
        upkeep(database)
        assert report(database, drain).holding
        assert database.read(drains.all_in_force)[0].silent_since is None, "what came before the beat does not count"
    database.transact(lambda tx: instances.leave(tx, "one"))
    upkeep(database)
    assert report(database, drain).state is DrainState.DRAINED


def test_a_process_that_was_killed_does_not_hold_a_drain_up(database: Database) -> None:
    consumer(database, "one", loads={"matching": 3})
    drain = begin(database, Aim(DrainKind.INSTANCE, "one"))
    assert [line.what for line in report(database, drain).holding] == [Thing.MESSAGES, Thing.PROCESSES]
    database.transact(lambda tx: tx.run(update(instances_table).values(last_seen=tx.after(-100))))
    upkeep(database)
    age(database, drain, silent_since=drains.UNHEARD + 1)
    upkeep(database)
    found = report(database, drain)
    assert found.state is DrainState.DRAINED
    assert [line.count for line in found.left] == [3, 1]
    assert found.left[1].why.startswith("silent for 1")
    with pytest.raises(Conflict, match="can't be called back"):
        lift(database, Aim(DrainKind.INSTANCE, "one"))
    assert database.read(drains.all_in_force) == [], "nobody need lift it"
