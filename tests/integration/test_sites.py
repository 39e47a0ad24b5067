"""Sites as rows: applied as a whole, banned apart from that, and held jobs woken when they change."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from pipeline.errors import NotFound
from pipeline.store import sites
from pipeline.store.database import Database
from pipeline.store.sites import Scope, Terms
from pipeline.store.tables import bans, limits, site_queues, start_rates, storages, vos
from pipeline.store.tables import sites as sites_table
from schemas.messages import JobsReceived
from schemas.pilots import Report
from schemas.site_views import SitesDiff
from schemas.sites import SitesFile
from schemas.states import JobState
from tests import building
from tests.pilot_rows import scene
from tests.submitting import all_jobs, array, move, submit, user

DATA = Path("/data")


def declared(*names: str, **site: Any) -> SitesFile:
    return SitesFile.model_validate(
        {
            "storages": [{"name": "disk", "url": "file://${DATA_DIR}/storage"}],
            "sites": [{"name": name, "storages": ["disk"], "queues": [{"name": "q"}], **site} for name in names],
        }
    )


def apply(database: Database, file: SitesFile, *, dry_run: bool = False) -> SitesDiff:
    return database.transact(lambda tx: sites.apply(tx, file, data_dir=DATA, dry_run=dry_run))


def test_a_file_is_applied_once_and_then_makes_no_difference(database: Database) -> None:
    user(database)
    diff = apply(database, declared("A", "B"))
    assert diff.added == ("storage disk", "site A", "queue A/q", "site B", "queue B/q")
    assert (diff.changed, diff.removed, diff.warnings) == ((), (), ())
    again = apply(database, declared("A", "B"))
    assert (again.added, again.changed, again.removed) == ((), (), ())
    assert database.transact(lambda tx: tx.scalar(select(storages.c.url))) == "file:///data/storage"


def test_a_dry_run_tells_the_same_difference_and_writes_nothing(database: Database) -> None:
    dry = apply(database, declared("A"), dry_run=True)
    assert database.transact(lambda tx: tx.rows(select(sites_table))) == []
    assert dry.added == apply(database, declared("A")).added
    changed = declared("A", max_running_jobs=3, queues=[{"name": "q", "cores": 8}, {"name": "new"}])
    dry = apply(database, changed, dry_run=True)
    assert (dry.added, dry.changed) == (("queue A/new",), ("site A", "queue A/q"))
    wet = apply(database, changed)
    assert (dry.added, dry.changed, dry.dry_run, wet.dry_run) == (wet.added, wet.changed, True, False)


def test_what_the_file_leaves_out_is_undeclared_and_keeps_its_id_when_it_comes_back(database: Database) -> None:
    apply(database, declared("A", "B"))
    query = select(sites_table.c.id, sites_table.c.name, sites_table.c.declared).order_by(sites_table.c.id)
    before = database.transact(lambda tx: tx.rows(query))
    diff = apply(database, declared("A"))
    assert diff.removed == ("site B", "queue B/q")
    assert [row.declared for row in database.transact(lambda tx: tx.rows(query))] == [True, False]
    assert database.transact(lambda tx: tx.rows(select(site_queues.c.declared)))[1].declared is False
    assert apply(database, declared("A", "B")).added == ("site B", "queue B/q")
    assert database.transact(lambda tx: tx.rows(query)) == before


def test_a_limit_starts_with_what_runs_and_goes_with_its_declaration(database: Database) -> None:
    at = scene(database, 3)
    database.transact(lambda tx: tx.run(limits.delete()))
    file = {"storages": ["LOCAL-disk"], "queues": [{"name": "local"}]}
    storage = {"name": "LOCAL-disk", "url": "file:///LOCAL-disk"}
    with_limit = SitesFile.model_validate(
        {"storages": [storage], "sites": [{"name": "LOCAL", "max_running_jobs": 5, **file}]}
    )
    apply(database, with_limit)
    assert at.counted() == 3
    without = SitesFile.model_validate({"storages": [storage], "sites": [{"name": "LOCAL", **file}]})
    assert apply(database, without).changed == ("site LOCAL",)
    assert database.transact(lambda tx: tx.rows(select(limits))) == []


def test_a_limit_starts_with_ends_that_are_not_booked_yet_since_their_booking_will_take_them_away(
    database: Database,
) -> None:
    at = scene(database, 3)
    database.transact(lambda tx: tx.run(limits.delete()))
    at.start()
    at.report(Report(**at.refs()[0].model_dump(), outcome="payload_failed", exit_code=1))
    storage = {"name": "LOCAL-disk", "url": "file:///LOCAL-disk"}
    site = {"name": "LOCAL", "max_running_jobs": 5, "storages": ["LOCAL-disk"], "queues": [{"name": "local"}]}
    apply(database, SitesFile.model_validate({"storages": [storage], "sites": [site]}))
    assert at.counted() == 2


def test_a_start_rate_begins_with_a_full_bucket_and_keeps_what_is_left_when_it_changes(database: Database) -> None:
    def rates() -> list[tuple[int, float, float]]:
        rows = database.transact(lambda tx: tx.rows(select(start_rates)))
        return [(row.jobs, round(row.period, 4), row.tokens) for row in rows]

    apply(database, declared("A", max_starts={"jobs": 100, "seconds": 60.1}))
    assert rates() == [(100, 60.1, 100.0)]
    assert apply(database, declared("A", max_starts={"jobs": 100, "seconds": 60.1})).changed == ()
    database.transact(lambda tx: tx.run(update(start_rates).values(tokens=30.5)))
    assert apply(database, declared("A", max_starts={"jobs": 50, "seconds": 10})).changed == ("site A",)
    assert rates() == [(50, 10.0, 30.5)]
    apply(database, declared("A", max_starts={"jobs": 20, "seconds": 10}))
    assert rates() == [(20, 10.0, 20.0)]
    assert apply(database, declared("A")).changed == ("site A",)
    assert rates() == []


def test_shares_of_vos_are_what_the_file_says_and_one_without_it(database: Database) -> None:
    user(database)
    user(database, vo="other")

    def shares() -> dict[str, float]:
        rows = database.transact(lambda tx: tx.rows(select(vos.c.name, vos.c.share)))
        return {row.name: round(row.share, 5) for row in rows}

    file = declared("A").model_copy(update={"vo_shares": {"default": 1 / 3, "nobody": 2.0}})
    first = apply(database, file)
    assert (first.changed, first.warnings) == (("share of VO default",), ("vo_shares: there is no VO 'nobody' yet",))
    assert apply(database, file).changed == ()
    assert shares() == {"default": 0.33333, "other": 1.0}
    assert apply(database, declared("A"), dry_run=True).changed == ("share of VO default",)
    assert shares()["default"] == 0.33333
    apply(database, declared("A"))
    assert shares() == {"default": 1.0, "other": 1.0}


def test_a_queue_that_release_0_2_0_stored_is_no_difference(database: Database) -> None:
    apply(database, declared("A"))
    old = (
        '{"name":"q","batch_system":"local","options":{},"vos":["default"],"cores":1,"memory":2048,"disk":10240,'
        '"wall_time":86400,"tags":[],"max_pilots":1,"max_pending_pilots":1}'
    )
    database.transact(lambda tx: tx.run(update(site_queues).values(entry=old)))
    assert apply(database, declared("A")).changed == ()


def test_names_that_nothing_serves_yet_are_warnings(database: Database) -> None:
    file = declared("A", queues=[{"name": "q", "vos": ["nobody"], "batch_system": "abacus"}])
    assert apply(database, file).warnings == (
        "queue A/q: there is no VO 'nobody' yet",
        "queue A/q: no batch system 'abacus' is installed here",
    )


def test_bans_survive_an_apply_and_end_by_hand_or_by_time(database: Database) -> None:
    vo = user(database).vo_id
    apply(database, declared("A"))

    def ban(queue: str | None) -> None:
        database.transact(lambda tx: sites.ban(tx, Scope(vo, "A", queue), Terms("ops", "broken")))

    ban(None)
    ban("q")
    apply(database, declared("A", max_running_jobs=2))
    view = database.transact(lambda tx: sites.list_sites(tx, vo))
    assert [(found.queue, found.vo, found.why) for found in view.bans] == [
        (None, "default", "broken"),
        ("q", "default", "broken"),
    ]
    lifted = database.transact(lambda tx: sites.allow(tx, Scope(vo, "A", "q"), by="ops"))
    assert [found.queue for found in lifted] == ["q"]
    past = database.now() - timedelta(minutes=1)
    database.transact(lambda tx: tx.run(update(bans).where(bans.c.lifted_at.is_(None)).values(until=past)))
    assert database.transact(lambda tx: sites.list_sites(tx, vo)).bans == ()
    assert database.transact(sites.end_bans) == 1
    assert database.transact(sites.end_bans) == 0
    rows = database.transact(lambda tx: tx.rows(select(bans.c.lifted_by).order_by(bans.c.id)))
    assert [row.lifted_by for row in rows] == ["its end", "ops"]


@pytest.mark.parametrize("scope", [Scope(1, "X"), Scope(1, "A", "x")])
def test_a_ban_of_nothing_is_refused(database: Database, scope: Scope) -> None:
    apply(database, declared("A"))
    with pytest.raises(NotFound):
        database.transact(lambda tx: sites.ban(tx, scope, Terms("ops", "typo")))


def test_held_jobs_of_the_concerned_vo_are_received_again(database: Database) -> None:
    mine = submit(database, {"name": "s", **array(3)})
    theirs = submit(database, {"name": "s", **array(2)}, owner=user(database, "other"))
    for submitted in (mine, theirs):
        move(database, [job.id for job in all_jobs(database, submitted.campaign_id)], JobState.HELD)
    woken = sites.wake_held(database, user(database).vo_id, window=4, wake_after=30.0)
    assert woken.jobs == 3
    named = [i for message in woken.messages if isinstance(message.body, JobsReceived) for i in message.body.job_ids]
    assert named == [job.id for job in all_jobs(database, mine.campaign_id)]
    assert {job.state for job in all_jobs(database, mine.campaign_id)} == {JobState.RECEIVED}
    assert {job.state for job in all_jobs(database, theirs.campaign_id)} == {JobState.HELD}
    assert len(sites.wake_held(database, None, window=4, wake_after=30.0).messages) == 1
    assert {job.state for job in all_jobs(database, theirs.campaign_id)} == {JobState.RECEIVED}


def test_a_vo_sees_its_own_pilots_alone(database: Database) -> None:
    at = building.site(database)
    building.pilot(database, at)
    building.pilot(database, at, vo="other")
    vo = user(database).vo_id
    shown = database.transact(lambda tx: sites.list_sites(tx, vo))
    assert shown.sites[0].queues[0].pilots == {"running": 1}
