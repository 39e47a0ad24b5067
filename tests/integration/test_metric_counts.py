"""What is counted over the whole system: every event once, whatever commits when; pilots, messages, campaigns."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial

import pytest
from sqlalchemy import func, insert, select, update

from executors.upkeep.shell import DUTIES
from pipeline.runtime.spec import Context
from pipeline.settings import Settings
from pipeline.store import event_counts, job_commands, marks, measures, metric_values, pilot_counts, retention
from pipeline.store.database import Database, Transaction
from pipeline.store.job_commands import JobFilter
from pipeline.store.metric_values import Labels
from pipeline.store.tables import campaigns, dead_letters, job_events, pilot_caps
from pipeline.store.tables import jobs as jobs_table
from pipeline.store.tables import metric_values as values_table
from pipeline.store.tables import pilots as pilots_table
from schemas.pilots import Report
from schemas.sites import MetaSiteEntry
from schemas.states import PILOT_FINAL, JobState, PilotState
from tests import building
from tests.counting import come_and_go, count
from tests.pilot_rows import RULES, scene
from tests.submitting import array, move, submit

VERY_OLD = timedelta(days=60)


def values(database: Database, name: str) -> dict[Labels, float]:
    """A metric's values that are not 0, by its labels."""
    found = database.read(metric_values.everything)
    return {labels: value for (of, labels), value in found.items() if of == name and value}


def transitions(database: Database) -> Counter[tuple[str | None, str]]:
    """As the events have them."""
    query = select(job_events.c.from_state, job_events.c.to_state)
    return Counter((row.from_state, row.to_state) for row in database.read(lambda tx: tx.rows(query)))


def present(database: Database) -> dict[Labels, float]:
    """Jobs that have not ended by state and site, as the rows have them."""
    over = (JobState.DONE, JobState.FAILED, JobState.KILLED)
    query = select(jobs_table.c.state, jobs_table.c.site_id).where(jobs_table.c.state.not_in(over))
    return dict(Counter((row.state, row.site_id) for row in database.read(lambda tx: tx.rows(query))))


def test_jobs_are_told_by_state_and_site_wherever_they_go(database: Database) -> None:
    made = scene(database, 12)
    ids = [job.id for job in made.jobs()]
    made.start(made.refs()[:9])
    move(database, ids[:4], JobState.COMPLETING)
    move(database, ids[:2], JobState.DONE)
    move(database, ids[2:3], JobState.RECEIVED)
    move(database, ids[4:6], JobState.RECEIVED)
    move(database, ids[6:7], JobState.STALLED)
    move(database, ids[7:8], JobState.FAILED)
    move(database, ids[9:10], JobState.WAITING)
    move(database, ids[8:9], JobState.KILLED)
    job_commands.retry(database, 1, JobFilter(campaign_id=made.campaign_id), window=4, wake_after=30.0)
    count(database, most=7)
    assert values(database, "penstock_jobs") == present(database)
    assert values(database, "penstock_job_transitions_total") == transitions(database)
    ends = {("done", made.site.id): 2, ("failed", made.site.id): 1, ("killed", made.site.id): 1}
    assert values(database, "penstock_job_ends_total") == ends
    causes = {"pilot_lost": 2, "outputs_lost": 1, "unconfirmed": 1}
    restarts = {(cause, made.site.id): float(many) for cause, many in causes.items()}
    by_hand = {("by_hand", made.site.id): 1.0}
    assert values(database, "penstock_job_restarts_total") == restarts | by_hand


def test_core_seconds_that_led_to_nothing_are_told_by_what_became_of_the_attempt(database: Database) -> None:
    made = scene(database, 6)
    ids = [job.id for job in made.jobs()]
    made.start(made.refs()[:5])
    set_all = {"cores": 4, "matched_at": jobs_table.c.created_at}
    database.transact(lambda tx: tx.run(update(jobs_table).where(jobs_table.c.id.in_(ids)).values(set_all)))
    earlier = database.now() - timedelta(seconds=1000)
    database.transact(lambda tx: tx.run(update(jobs_table).values(matched_at=earlier)))
    refs = made.refs()
    made.report(
        Report(job_id=refs[0].job_id, attempt=1, outcome="payload_failed", exit_code=1, wall_time=1, cpu_time=1),
        Report(job_id=refs[1].job_id, attempt=1, outcome="succeeded", exit_code=0, wall_time=1, cpu_time=1),
        Report(job_id=refs[2].job_id, attempt=1, outcome="succeeded", exit_code=0, wall_time=1, cpu_time=1),
    )
    move(database, ids[1:2], JobState.DONE)
    move(database, ids[2:3], JobState.RECEIVED)  # its outputs are not there
    move(database, ids[3:4], JobState.STALLED, JobState.RECEIVED)
    move(database, ids[4:5], JobState.KILLED)
    move(database, ids[5:6], JobState.WAITING)  # it was never begun
    count(database)
    site = made.site.id
    outcomes = ("payload_failed", "outputs_lost", "pilot_lost", "killed")
    wasted = values(database, "penstock_wasted_core_seconds_total")
    assert wasted == pytest.approx({(outcome, site): 4_000 for outcome in outcomes}, rel=0.05)
    assert values(database, "penstock_used_core_seconds_total") == pytest.approx({(site,): 20_000}, rel=0.05)


def test_what_was_given_out_just_now_is_left_for_the_next_tick(database: Database) -> None:
    submit(database, {"name": "s", **array(3)})
    for _ in range(3):
        assert not database.transact(event_counts.count)
    assert values(database, "penstock_jobs") == {}
    count(database)
    assert values(database, "penstock_jobs") == {("received", None): 3}


def test_a_tick_that_fails_after_counting_has_counted_nothing(database: Database) -> None:
    submit(database, {"name": "s", **array(3)})
    database.transact(partial(event_counts.count, settled=0.0))

    def die(tx: Transaction) -> None:
        assert event_counts.count(tx, settled=0.0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        database.transact(die)
    count(database)
    assert values(database, "penstock_jobs") == {("received", None): 3}


def test_two_that_count_at_once_count_everything_once(database: Database) -> None:
    for number in range(3):
        submit(database, {"name": "s", **array(40 + number)})
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(partial(count, database, most=10)) for _ in range(4)]:
            done.result()
    count(database)
    assert values(database, "penstock_jobs") == {("received", None): 123}


def _event(tx: Transaction, job_id: int, many: int = 1) -> None:
    row = {"job_id": job_id, "attempt": 0, "to_state": "received", "at": tx.now}
    tx.connection.execute(insert(job_events), [row] * many)


def test_an_event_that_is_committed_after_later_ones_is_waited_for(mariadb: Database) -> None:
    written, may_end = threading.Event(), threading.Event()

    def slowly(tx: Transaction) -> None:
        _event(tx, 1)
        written.set()
        assert may_end.wait(30)

    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(mariadb.transact, slowly)
        assert written.wait(30)
        mariadb.transact(lambda tx: _event(tx, 2))
        assert not mariadb.transact(partial(event_counts.count, settled=0.0))
        with pytest.raises(marks.Held):
            mariadb.transact(partial(event_counts.count, settled=0.0))
        may_end.set()
        slow.result()
    count(mariadb)
    assert values(mariadb, "penstock_job_transitions_total") == {(None, "received"): 2}


def test_nothing_is_missed_or_counted_twice_while_transactions_of_every_length_come_and_go(
    mariadb: Database, seed: int
) -> None:
    come_and_go(mariadb, seed, lambda tx, chance: _event(tx, 1, chance.randint(1, 20)))
    count(mariadb)
    written = mariadb.read(lambda tx: tx.scalar(select(func.count()).select_from(job_events)))
    assert values(mariadb, "penstock_job_transitions_total") == {(None, "received"): written}


def _purge(database: Database) -> None:
    old = {"created_at": database.now() - VERY_OLD, "ended_at": database.now() - VERY_OLD}
    database.transact(lambda tx: tx.run(update(campaigns).values(**old)))
    retention.purge(database, 86_400.0, lambda _doomed: None)


@pytest.mark.parametrize("is_counted_before", [True, False])
def test_jobs_that_retention_deletes_are_counted_out(database: Database, is_counted_before: bool) -> None:
    stuck = submit(database, {"name": "s", **array(3)})
    set_state = update(campaigns).where(campaigns.c.id == stuck.campaign_id).values(state="arriving")
    database.transact(lambda tx: tx.run(set_state))
    if is_counted_before:
        count(database)
    _purge(database)
    submit(database, {"name": "s", **array(2)})
    count(database)
    assert values(database, "penstock_jobs") == {("received", None): 2}
    assert values(database, "penstock_job_transitions_total") == {(None, "received"): 5}


def test_jobs_are_counted_out_beside_who_writes_of_other_jobs(mariadb: Database) -> None:
    submit(mariadb, {"name": "s", **array(600)})
    count(mariadb)
    *old, other = [row.id for row in mariadb.read(lambda tx: tx.rows(select(jobs_table.c.id)))]
    written, may_end = threading.Event(), threading.Event()

    def slowly(tx: Transaction) -> None:
        _event(tx, other)
        written.set()
        assert may_end.wait(30)

    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(mariadb.transact, slowly)
        assert written.wait(30)
        try:
            mariadb.transact(partial(event_counts.forget, job_ids=old))
        finally:
            may_end.set()
        slow.result()
    count(mariadb)
    assert values(mariadb, "penstock_jobs") == {("received", None): 2}


def test_a_long_history_that_retention_has_deleted_takes_one_transaction(database: Database) -> None:
    submit(database, {"name": "s", **array(3)})
    database.transact(lambda tx: tx.run(update(job_events).values(id=job_events.c.id + 2_000_000_000)))
    assert not database.transact(partial(event_counts.count, settled=0.0))
    assert database.transact(partial(event_counts.count, settled=0.0))
    assert not database.transact(partial(event_counts.count, settled=0.0))
    assert values(database, "penstock_jobs") == {("received", None): 3}


def test_events_that_an_older_release_deleted_do_not_end_the_count(database: Database) -> None:
    submit(database, {"name": "s", **array(9)})
    count(database)
    database.transact(lambda tx: tx.run(job_events.delete()))
    count(database)
    submit(database, {"name": "s", **array(2)})
    count(database)
    assert values(database, "penstock_job_transitions_total") == {(None, "received"): 11}


def test_pilots_that_end_are_counted_once_and_those_that_live_by_state_queue_and_meta_site(database: Database) -> None:
    site = building.site(database)
    body = MetaSiteEntry(name="both", queues=("LOCAL/local",)).model_dump_json()
    database.transact(lambda tx: tx.add(pilot_caps, kind="meta", name="both", body=body))
    ends = partial(database.transact, partial(pilot_counts.count_ended, settled=0.0))
    ends()
    for state in (PilotState.RUNNING, PilotState.QUEUED, PilotState.QUEUED):
        building.pilot(database, site, state=state)
    silent = building.pilot(database, site, last_seen=database.now() - VERY_OLD)
    for state in (PilotState.DONE, PilotState.FAILED, PilotState.FAILED):
        building.pilot(database, site, state=state, ended_at=database.now())
    ends()
    ends()
    place = (site.id, site.queue_id)
    wanted = {("done", *place): 1, ("failed", *place): 2}
    assert values(database, "penstock_pilots_ended_total") == wanted
    measured = partial(measures.measure, queues=("data",), heartbeat_timeout=RULES.heartbeat_timeout)
    database.transact(measured)
    assert values(database, "penstock_pilots") == {("running", *place): 2, ("queued", *place): 2}
    assert values(database, "penstock_meta_site_pilots") == {
        ("running", "both", *place): 2,
        ("queued", "both", *place): 2,
    }
    assert values(database, "penstock_silent_pilots") == {(): 1}
    gone = {"state": PilotState.LOST, "ended_at": None}
    database.transact(lambda tx: tx.run(update(pilots_table).where(pilots_table.c.id == silent).values(**gone)))
    database.transact(measured)
    assert values(database, "penstock_silent_pilots") == {}
    assert values(database, "penstock_pilots")["lost", site.id, site.queue_id] == 1


def test_pilots_of_a_new_queue_are_told_before_the_first_of_them_has_ended(database: Database) -> None:
    database.transact(partial(pilot_counts.count_ended, settled=0.0))
    site = building.site(database)
    database.transact(partial(pilot_counts.count_ended, settled=0.0))
    told = database.read(metric_values.everything)
    kept = {labels: value for (name, labels), value in told.items() if name == "penstock_pilots_ended_total"}
    assert kept == {(state, site.id, site.queue_id): 0 for state in PILOT_FINAL}


def test_a_pilot_whose_end_is_not_committed_yet_is_waited_for(mariadb: Database) -> None:
    site = building.site(mariadb)
    pilot = building.pilot(mariadb, site)
    ends = partial(mariadb.transact, partial(pilot_counts.count_ended, settled=0.0))
    ends()
    written, may_end = threading.Event(), threading.Event()

    def slowly(tx: Transaction) -> None:
        over = {"state": PilotState.DONE, "ended_at": tx.now}
        tx.run(update(pilots_table).where(pilots_table.c.id == pilot).values(**over))
        written.set()
        assert may_end.wait(30)

    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(mariadb.transact, slowly)
        assert written.wait(30)
        with pytest.raises(marks.Held):
            ends()
        may_end.set()
        slow.result()
    ends()
    assert values(mariadb, "penstock_pilots_ended_total") == {("done", site.id, site.queue_id): 1}


def test_the_duty_keeps_what_waits_and_what_was_given_up(database: Database) -> None:
    submit(database, {"name": "s", **array(3)})
    letter = {"message_id": "m", "queue": "data", "type": "FilesDue", "payload": b"", "reason": "r", "attempts": 1}
    database.transact(lambda tx: tx.add(dead_letters, **letter, created_at=tx.now))
    assert DUTIES["metrics"](Context(Settings(), database, "test")) == []
    assert values(database, "penstock_dead_letters_kept") == {("data",): 1}
    assert values(database, "penstock_campaigns") == {("running", 1): 1}
    assert values(database, "penstock_steps") == {("running",): 1}
    database.transact(lambda tx: tx.run(dead_letters.delete()))
    DUTIES["metrics"](Context(Settings(), database, "test"))
    assert values(database, "penstock_dead_letters_kept") == {}


def test_ticks_that_come_together_measure_one_after_the_other(database: Database) -> None:
    submit(database, {"name": "s", **array(3)})
    tick = partial(DUTIES["metrics"], Context(Settings(), database, "test"))
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(tick) for _ in range(8)]:
            done.result()
    assert values(database, "penstock_campaigns") == {("running", 1): 1}


def test_totals_are_exact_beyond_what_a_small_float_can_hold(database: Database) -> None:
    key = ("penstock_used_core_seconds_total", (1,))
    for delta in (123_456_789_012.0, 1.0):
        database.transact(partial(metric_values.add, deltas={key: delta}))
    assert database.read(lambda tx: tx.scalar(select(values_table.c.value))) == 123_456_789_013.0
