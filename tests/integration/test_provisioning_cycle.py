"""A cycle of provisioning on real databases: what it reads of queues' pasts, what it writes, when it plans nothing."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from executors.pilots.demand import read_demand
from executors.pilots.preview import preview
from executors.pilots.shell import execute
from pipeline.errors import DemandUnknown
from pipeline.runtime.spec import Context
from pipeline.settings import Settings
from pipeline.store import provisioning, provisioning_orders, sites
from pipeline.store.access import ensure_vo
from pipeline.store.database import Database, Transaction
from pipeline.store.live_pilots import live_pilots, note_idle
from pipeline.store.provisioning_rows import DemandReading, History, LivePilot, Past, Place
from pipeline.store.queue_histories import histories
from pipeline.store.tables import jobs, pilot_caps, pilots, queue_plans, waiting_jobs
from schemas.messages import Message, ProvisioningDue, SiteQueuesDue
from schemas.outcomes import Done
from schemas.site_views import SitesDiff
from schemas.sites import SitesFile
from schemas.states import JobState, PilotState
from tests import building
from tests.pilot_rows import autocluster, scene, set_job


def _requested(database: Database, at: building.Site, ago: float, **columns: Any) -> int:
    """A pilot that was requested so many seconds ago; moments are seconds after that."""

    def work(tx: Transaction) -> int:
        moments = {name: tx.after(columns.pop(name) - ago) for name in list(columns) if name.endswith("_at")}
        submitted = moments.pop("submitted_at", tx.after(-ago))
        return tx.add(
            pilots,
            tag=f"{at.queue_id}-{ago}-{len(columns)}-{columns.get('state')}",
            site_queue_id=at.queue_id,
            site_id=at.id,
            vo_id=ensure_vo(tx, "default"),
            cores=4,
            requested_at=tx.after(-ago),
            submitted_at=submitted,
            **{**moments, **columns},
        )

    return database.transact(work)


def test_a_queues_history_counts_what_was_requested_lately(database: Database) -> None:
    at, beside = building.site(database), building.site(database, "BESIDE")
    for ago, wait in ((5_000.0, 10.0), (4_000.0, 30.0), (3_000.0, 500.0)):
        _requested(database, at, ago, state=PilotState.DONE, started_at=wait, ended_at=2_000.0)
    _requested(database, at, 2_500.0, state=PilotState.FAILED, ended_at=100.0)
    _requested(database, at, 600.0, state=PilotState.REMOVED, ended_at=240.0)
    _requested(database, at, 500.0, state=PilotState.QUEUED)
    _requested(database, at, 90_000.0, state=PilotState.DONE, started_at=1.0, ended_at=80_000.0)
    _requested(database, beside, 500.0, state=PilotState.FAILED, ended_at=100.0)
    found = database.read(histories)
    assert set(found) == {at.queue_id, beside.queue_id}
    one = found[at.queue_id]
    assert (one.submitted, one.started, one.stillborn) == (6, 3, 1)
    assert one.queue_time == pytest.approx(30.0, abs=0.1)
    assert one.moved == pytest.approx(1_000.0, abs=5.0)
    assert one.vain == pytest.approx(240.0, abs=0.1)
    assert found[beside.queue_id] == History(1, 0, 1)


def test_pilots_that_were_taken_back_before_something_moved_have_not_waited_in_vain(database: Database) -> None:
    at = building.site(database)
    _requested(database, at, 900.0, state=PilotState.REMOVED, ended_at=300.0)
    _requested(database, at, 500.0, state=PilotState.RUNNING, started_at=50.0)
    found = database.read(histories)[at.queue_id]
    assert found.moved == pytest.approx(450.0, abs=5.0)
    assert found.vain == 0.0


def test_idle_cycles_are_counted_until_a_job_comes(database: Database) -> None:
    at = scene(database, 1)
    building.slot(database, at.pilot_id)
    (job,) = at.jobs()
    at_work = {"pilot_id": at.pilot_id, "state": JobState.RUNNING, "autocluster_id": autocluster(database, job)}
    set_job(database, job.id, **{**at_work, "state": JobState.RECEIVED})

    def cycle(tx: Transaction) -> LivePilot:
        (pilot,) = live_pilots(tx, {})
        note_idle(tx, [pilot])
        return pilot

    assert [database.transact(cycle).idle_cycles for _ in range(3)] == [1, 2, 3]
    database.transact(lambda tx: tx.run(update(jobs).values(**at_work, matched_at=tx.after(-10))))
    busy = database.transact(cycle)
    assert (busy.idle_cycles, busy.jobs, busy.recent_jobs) == (0, 1, 1)
    assert database.read(lambda tx: tx.scalar(select(pilots.c.idle_cycles))) == 0


def test_a_pilot_that_has_just_enrolled_counts_as_free_until_it_asks_for_jobs(database: Database) -> None:
    at = building.site(database, cores=4, memory=9_000)
    building.pilot(database, at)
    entries = {at.queue_id: sites_entry(database)}
    (pilot,) = database.read(lambda tx: list(live_pilots(tx, entries)))
    assert (pilot.cores, pilot.memory) == (4, 9_000)
    database.transact(lambda tx: tx.run(update(pilots).values(started_at=tx.after(-600))))
    (pilot,) = database.read(lambda tx: list(live_pilots(tx, entries)))
    assert pilot.cores == 0


def sites_entry(database: Database) -> Any:
    (room,) = database.read(lambda tx: provisioning.situation(tx, DemandReading((), is_sure=True))).rooms
    return room.entry


def test_what_a_cycle_leaves_is_kept_as_a_whole_and_only_what_changes_is_written(database: Database) -> None:
    at, beside = building.site(database), building.site(database, "BESIDE")
    vo_id = database.transact(lambda tx: ensure_vo(tx, "default"))
    first, other = (at.queue_id, vo_id), (beside.queue_id, vo_id)
    hold_until = database.now()

    def known() -> Mapping[Place, Past]:
        return database.read(lambda tx: provisioning.situation(tx, DemandReading((), is_sure=True))).past

    def keep(before: Mapping[Place, Past], after: Mapping[Place, Past]) -> Mapping[Place, Past]:
        database.transact(lambda tx: provisioning_orders.keep_past(tx, before, after))
        return known()

    new = {first: Past(0), other: Past(0, hold_until)}
    assert keep(known(), new) == new
    elsewhere = queue_plans.c.site_queue_id == other[0]
    database.transact(lambda tx: tx.run(update(queue_plans).where(elsewhere).values(low_cycles=7)))
    assert keep(new, {**new, first: Past(1)}) == {first: Past(1), other: Past(7, hold_until)}  # 7 is not written over
    assert keep(known(), {first: Past(1)}) == {first: Past(1)}


def _cycle(context: Context, number: int) -> list[Message]:
    now = context.database.now()
    (outcome,) = execute(context, [Message.about(ProvisioningDue(cycle=number), now=now)])
    assert isinstance(outcome, Done)
    return list(outcome.follow_ups)


def _source(folder: Path, code: str) -> None:
    """Another package that brings the demand source `other`."""
    (folder / "other_source.py").write_text(code)
    about = folder / "other_source-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: other-source\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[penstock.demand_sources]\nother = other_source:read\n")


FAILING = """
def read(tx, settings):
    raise RuntimeError("its server is away")
"""
TEN_MORE = """
from pipeline.store.provisioning_rows import Demand, DemandReading
from schemas.requirements import Requirement

def read(tx, settings):
    return DemandReading((Demand(1, Requirement(), 10),), is_sure=False)
"""


def test_when_a_demand_source_fails_nothing_is_planned_until_the_next_cycle(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _source(tmp_path, FAILING)
    monkeypatch.syspath_prepend(tmp_path)
    at = building.site(database)
    pending = building.pilot(database, at, state=PilotState.QUEUED, started_at=None)
    failing = Context(Settings(data_dir=tmp_path, demand_sources=("jobs", "other")), database, "tester")
    for number in (1, 2, 3):
        (due,) = _cycle(failing, number)
        assert isinstance(due.body, SiteQueuesDue)  # what is there is followed all the same
    assert not database.read(lambda tx: tx.rows(select(queue_plans)))
    well = Context(Settings(data_dir=tmp_path), database, "tester")
    for number in (4, 5):
        _cycle(well, number)
    removed = select(pilots.c.id).where(pilots.c.remove_requested)
    assert [row.id for row in database.read(lambda tx: tx.rows(removed))] == [pending]


def test_demand_sources_are_added_up_and_are_sure_when_all_are(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _source(tmp_path, TEN_MORE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "other_source", raising=False)
    where = scene(database, 1)
    job = where.jobs()[0]
    cluster = autocluster(database, job)
    database.transact(lambda tx: tx.add(waiting_jobs, autocluster_id=cluster, descent=0, job_id=job.id))
    alone = database.read(lambda tx: read_demand(tx, Settings()))
    assert ([one.jobs for one in alone.demand], alone.is_sure) == ([1], True)
    both = database.read(lambda tx: read_demand(tx, Settings(demand_sources=("jobs", "other"))))
    assert ([one.jobs for one in both.demand], both.is_sure) == ([1, 10], False)


def test_a_source_that_is_not_installed_is_named(database: Database) -> None:
    with pytest.raises(DemandUnknown, match="no demand source 'elsewhere' is installed"):
        database.read(lambda tx: read_demand(tx, Settings(demand_sources=("elsewhere",))))


def test_that_nothing_waits_is_not_believed_when_the_jobs_say_otherwise(database: Database) -> None:
    where = scene(database, 1)
    assert database.read(lambda tx: read_demand(tx, Settings())).is_sure
    set_job(database, where.jobs()[0].id, state=JobState.WAITING)
    reading = database.read(lambda tx: read_demand(tx, Settings()))
    assert (reading.demand, reading.is_sure) == ((), False)


def _apply(database: Database, *, dry_run: bool = False, **more: Any) -> SitesDiff:
    entry = {"name": "q", "max_pilots": 9, "max_pending_pilots": 9}
    sites_said = [{"name": name, "storages": ["disk"], "queues": [entry]} for name in ("A", "B")]
    sites_said[0].update(more.pop("site", {}))
    said = {"storages": [{"name": "disk", "url": "file:///disk"}], "sites": sites_said, **more}
    file = SitesFile.model_validate(said)
    database.transact(lambda tx: ensure_vo(tx, "default"))
    return database.transact(lambda tx: sites.apply(tx, file, data_dir=Path("/data"), dry_run=dry_run))


def test_limits_of_pilots_are_applied_as_a_whole_and_read_with_what_they_cover(database: Database) -> None:
    _apply(database)
    said: dict[str, Any] = {
        "pilots": {"max_pilots": 100},
        "vo_pilots": {"default": {"max_pending_pilots": 5}, "nobody": {"max_pilots": 1}},
        "site": {"pilots": {"max_pilots": 7}},
        "meta_sites": [{"name": "both", "queues": ["A/q", "B/q"], "max_submissions": 3}],
    }
    dry = _apply(database, dry_run=True, **said)
    assert not database.read(lambda tx: tx.rows(select(pilot_caps)))
    diff = _apply(database, **said)
    assert diff.model_copy(update={"dry_run": True}) == dry
    assert diff.added == ("meta-site both",)
    assert set(diff.changed) == {
        "pilots everywhere",
        "pilots VO default",
        "pilots VO nobody",
        "pilots site A",
    }
    assert diff.warnings == ("vo_pilots: there is no VO 'nobody' yet",)
    now = database.read(lambda tx: provisioning.situation(tx, DemandReading((), is_sure=True)))
    queues = {room.site: room.site_queue_id for room in now.rooms}
    found = {cap.label: (cap.limits.max_pilots, cap.queues, cap.vo_id) for cap in now.caps}
    assert found == {
        "everywhere": (100, None, None),
        "VO default": (None, None, now.rooms[0].vo_id),
        "site A": (7, frozenset({queues["A"]}), None),
        "meta-site both": (None, frozenset(queues.values()), None),
    }
    again = _apply(database, **said)
    assert (again.added, again.changed, again.removed) == ((), (), ())
    gone = _apply(database, vo_pilots=said["vo_pilots"])
    assert gone.removed == ("meta-site both",)
    assert set(gone.changed) == {"pilots everywhere", "pilots site A"}


def test_a_preview_says_what_a_plan_would_do_and_does_nothing(database: Database, tmp_path: Path) -> None:
    where = scene(database, 1)
    job = where.jobs()[0]
    cluster = autocluster(database, job)
    database.transact(lambda tx: tx.add(waiting_jobs, autocluster_id=cluster, descent=0, job_id=job.id))
    vo_id = job.vo_id
    view = database.read(lambda tx: preview(tx, Settings(data_dir=tmp_path), vo_id))
    (row,) = view.items
    assert (row.site, row.vo, row.waiting_jobs, row.pilots) == (
        where.site.name,
        "default",
        1,
        {PilotState.RUNNING: 1},
    )
    assert (view.is_sure, view.waiting_jobs, view.request) == (True, 1, row.request)
    assert row.why
    assert database.read(lambda tx: preview(tx, Settings(data_dir=tmp_path), vo_id + 1)).items == ()
    assert not database.read(lambda tx: tx.rows(select(queue_plans)))
