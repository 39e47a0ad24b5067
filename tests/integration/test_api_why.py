"""Why a job is where it is, over HTTP: each site queue's answer, full limits, its turn, and what its state means."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import update

from pipeline.errors import NotFound
from pipeline.store import nodes
from pipeline.store.database import Transaction
from pipeline.store.tables import campaigns, jobs, limits, pilots, site_queues
from schemas.api import Role
from schemas.policy import Policy
from schemas.requirements import Requirement
from schemas.states import JobState, PilotState
from schemas.why_views import JobWhy, QueueWhy
from tests import building
from tests.api_server import RunningApi, running_api
from tests.backlog import person, received, waiting
from tests.pilot_rows import set_job
from tests.submitting import User, all_jobs, move, submit


@pytest.fixture(scope="module", params=["sqlite", "mariadb"])
def shared_api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    on_mariadb = request.param == "mariadb"
    url = request.getfixturevalue("mariadb_server").new_database() if on_mariadb else ""
    with running_api(tmp_path_factory.mktemp("api"), database_url=url) as running:
        yield running


def site(api: RunningApi, name: str, **words: Any) -> building.Site:
    """A site with a queue of 4 cores for the test's VO alone."""
    return building.site(api.database, f"{name}-{api.vo}", vos=[api.vo], **words)


def why(api: RunningApi, job_id: int) -> JobWhy:
    with api.client() as client:
        return client.why(job_id)


def queue_of(view: JobWhy, at: building.Site) -> QueueWhy:
    (found,) = [queue for queue in view.queues if queue.site == at.name]
    return found


def test_each_site_queue_says_everything_that_it_lacks(api: RunningApi) -> None:
    small, large = site(api, "SMALL"), site(api, "LARGE", cores=16, memory=65_536, tags=["gpu"])
    (job,) = waiting(
        api.database, person(api.database, api.vo), requirements={"cores": 8, "memory": 16_384, "tags": ["gpu"]}
    )
    view = why(api, job)
    assert [queue.site for queue in view.queues] == [large.name, small.name]
    assert queue_of(view, large).fits
    assert queue_of(view, large).missing == ()
    found = queue_of(view, small)
    assert not found.fits
    assert found.missing[:2] == ("wants cores 8, has 4", "wants memory 16384 MiB, has 8192 MiB")
    assert any("gpu" in reason for reason in found.missing)
    assert view.because == (
        f"no pilot is at {large.name}/local yet; what waits makes Penstock ask for some, within a minute",
    )


def test_a_job_that_fits_nowhere_is_told_so(api: RunningApi) -> None:
    site(api, "SMALL")
    (job,) = waiting(api.database, person(api.database, api.vo), requirements={"cores": 64})
    assert why(api, job).because == ("no site queue of your VO fits it; see below what each lacks",)


def test_bans_test_mode_and_back_off_are_told_with_who_and_why(api: RunningApi) -> None:
    banned, tested, failing = site(api, "BANNED"), site(api, "TESTED"), site(api, "FAILING")
    building.ban(api.database, banned, vo=api.vo, banned_by="carol", why="cooling")
    building.ban(api.database, tested, vo=api.vo, only_job_type="test")

    def back_off(tx: Transaction) -> None:
        query = update(site_queues).where(site_queues.c.id == failing.queue_id)
        tx.run(query.values(backoff_until=tx.after(600), reason="sbatch: no such partition"))

    api.database.transact(back_off)
    (job,), (test_job,) = (
        waiting(api.database, person(api.database, api.vo)),
        waiting(api.database, person(api.database, api.vo), job_type="test"),
    )
    view = why(api, job)
    assert queue_of(view, banned).banned == "by carol: cooling"
    assert queue_of(view, tested).test_mode == "test"
    assert queue_of(view, failing).backoff_reason == "sbatch: no such partition"
    assert queue_of(view, failing).backoff_until is not None
    assert queue_of(why(api, test_job), tested).test_mode is None


def test_a_ban_of_another_vo_is_not_told(api: RunningApi) -> None:
    at = site(api, "A")
    building.ban(api.database, at, vo="elsewhere")
    (job,) = waiting(api.database, person(api.database, api.vo))
    assert queue_of(why(api, job), at).banned is None


def test_room_of_parked_pilots_is_counted_in_such_jobs(api: RunningApi) -> None:
    at = site(api, "A")
    alice = person(api.database, api.vo)
    pilot_id = building.offering(api.database, at, vo=api.vo, state="parked")
    (runs,) = waiting(api.database, alice)
    granted = {"cores": 1, "memory": 1024, "disk": 1024, "gpus": 0, "alternative": 0, "charge": 1}
    move(api.database, [runs], JobState.MATCHED, pilot_id=pilot_id, site_id=at.id, **granted)
    narrow, wide = waiting(api.database, alice)[0], waiting(api.database, alice, requirements={"cores": 4})[0]
    found = queue_of(why(api, narrow), at)
    assert (found.pilots, found.free_cores, found.room_for) == ({PilotState.RUNNING: 1}, 3, 3)
    assert why(api, narrow).because == (f"pilots at {at.name}/local have room for it; it is matched soon",)
    assert queue_of(why(api, wide), at).room_for == 0
    assert why(api, wide).because == (f"the pilots at {at.name}/local have no room left for it now",)


def test_limits_without_room_are_named_where_they_keep_a_job_back(api: RunningApi) -> None:
    full, free = site(api, "FULL", running=0), site(api, "FREE")
    (job,) = waiting(
        api.database, person(api.database, api.vo), job_type="Merge", requirements={"labels": ["licence:matlab"]}
    )
    wanted = {
        "limits": [
            {"name": "matlab", "max_running": 0, "label": "licence:matlab", "site": free.name},
            {"name": "bobs", "max_running": 0, "owner": "bob"},
            {"name": "merges", "max_running": 7, "job_type": "Merge"},
        ]
    }
    with api.client(Role.OPERATOR) as client:
        client.apply_policy(Policy.model_validate(wanted))
    view = why(api, job)
    assert queue_of(view, full).full == (full.name,)
    assert queue_of(view, free).full == ("matlab",)
    assert {limit.name for limit in view.full} == {full.name, "matlab"}
    assert view.because == (f"limits without room keep it back: {full.name}, matlab",)
    of_site = (limits.c.kind == "site", limits.c.subject_id == full.id)
    api.database.transact(lambda tx: tx.run(update(limits).where(*of_site).values(maximum=1)))
    assert queue_of(why(api, job), full).full == ()


def test_a_waiting_job_has_a_turn_among_groups_owners_and_the_owners_own_jobs(api: RunningApi) -> None:
    alice, bob, carol = (
        person(api.database, api.vo),
        person(api.database, api.vo, "bob"),
        person(api.database, api.vo, "carol", "user"),
    )
    waiting(api.database, alice, 3, priority=5)
    older, job = waiting(api.database, alice), waiting(api.database, alice)
    waiting(api.database, bob)
    waiting(api.database, carol)
    person(api.database, api.vo, "dave")
    turn = why(api, job[0]).turn
    assert turn is not None
    assert (turn.group, turn.groups, turn.owner, turn.owners) == ("prod", 2, "alice", 2)
    assert (turn.higher, turn.older) == (3, 1)
    assert sorted([turn.group_place, _turn_of(api, carol).group_place]) == [1, 2]
    assert _turn_of(api, alice).owner_place != _turn_of(api, bob).owner_place
    assert older < job


def _turn_of(api: RunningApi, owner: User) -> Any:
    (job,) = waiting(api.database, owner)
    return why(api, job).turn


def test_a_received_job_says_what_it_waits_for(api: RunningApi) -> None:
    alice = person(api.database, api.vo)
    (paused,) = received(api.database, alice)
    of_vo = campaigns.c.vo_id == alice.vo_id
    api.database.transact(lambda tx: tx.run(update(campaigns).where(of_vo).values(state="paused")))
    view = why(api, paused)
    assert view.because == (f"its campaign is paused; `penstock campaigns resume {view.campaign_id}` lets it go on",)
    assert view.turn is None
    steps = ({"name": "first"}, {"name": "second", "after": ["first"]})
    submitted = submit(api.database, *steps, owner=alice)
    second = all_jobs(api.database, submitted.campaign_id)[-1].id
    assert why(api, second).because == ("step second starts when the steps before it have closed: first",)
    (fresh,) = received(api.database, alice)
    assert "the consumer of the queue `optimisation`" in why(api, fresh).because[0]
    (tired,) = received(api.database, alice)
    api.database.transact(lambda tx: set_row(tx, tired))
    assert why(api, tired).because[0].endswith("UTC: exit code 3")


def set_row(tx: Transaction, job_id: int) -> None:
    """The job failed and cools off."""
    tx.run(update(jobs).where(jobs.c.id == job_id).values(wake_at=tx.after(300), reason="exit code 3"))


def test_other_states_are_told_with_their_reason_and_what_can_be_done(api: RunningApi) -> None:
    at = site(api, "A")
    alice = person(api.database, api.vo)
    (held,), (failed,) = received(api.database, alice), received(api.database, alice)
    move(api.database, [held], JobState.HELD, reason="no site can run it: A wants more")
    move(api.database, [failed], JobState.FAILED, reason="exit code 1")
    pilot_id = building.pilot(api.database, at, vo=api.vo)
    (runs,) = waiting(api.database, alice)
    move(api.database, [runs], JobState.MATCHED, pilot_id=pilot_id, site_id=at.id)
    assert why(api, runs).because == (f"pilot {pilot_id} at {at.name} has it and has not confirmed it yet",)
    move(api.database, [runs], JobState.RUNNING)
    assert why(api, runs).because == (f"pilot {pilot_id} at {at.name} runs it: `penstock jobs logs {runs}`",)
    set_job(api.database, runs, kill_requested=True)
    assert why(api, runs).because[0].startswith("somebody asked to kill it")
    move(api.database, [runs], JobState.STALLED)
    assert "is silent, last heard of at" in why(api, runs).because[1]
    assert why(api, held).because == ("no site can run it: A wants more", "it goes on by itself when sites change")
    assert why(api, failed).because == (
        "exit code 1", f"nothing tries it again by itself: `penstock jobs retry {failed}` does",
    )  # fmt: skip


def test_a_dead_letter_is_named_with_the_command_that_decides(api: RunningApi) -> None:
    (job,) = received(api.database, person(api.database, api.vo))
    set_job(api.database, job, dead_letter_id=12)
    assert "`penstock dead requeue 12`" in why(api, job).because[0]


def test_vos_are_walls_for_jobs_queues_and_pilots(api: RunningApi, shared_api: RunningApi) -> None:
    other = shared_api.in_new_vo()
    at = building.site(api.database, f"A-{api.vo}", vos=[api.vo, other.vo])
    site(other, "THEIRS")
    building.offering(api.database, at, vo=other.vo, state="parked")
    (job,) = waiting(api.database, person(api.database, api.vo))
    with other.client(Role.OPERATOR) as stranger, pytest.raises(NotFound, match="there is no job"):
        stranger.why(job)
    view = why(api, job)
    assert [queue.site for queue in view.queues] == [at.name]
    assert (queue_of(view, at).pilots, queue_of(view, at).room_for) == ({}, 0)


def test_a_requirement_with_alternatives_says_which_of_them_lacks_what(api: RunningApi) -> None:
    at = site(api, "A")
    wants = {"cores": 2, "any_of": [{"cores": 8}, {"tags": ["gpu"]}]}
    (job,) = waiting(api.database, person(api.database, api.vo), requirements=wants)
    view = why(api, job)
    assert view.requirement == Requirement.model_validate(wants)
    assert all(reason.startswith("any_of[") for reason in queue_of(view, at).missing)


def test_a_queue_whose_nodes_rest_says_so(api: RunningApi) -> None:
    """No pilot is asked for there, as `jobs why` tells."""
    at = site(api, "bad")
    sent_away = building.pilot(api.database, at, vo=api.vo, node='{"host": "node1"}')
    api.database.transact(lambda tx: nodes.rest(tx, sent_away, 5, 3600))
    ended = update(pilots).where(pilots.c.id == sent_away).values(state=PilotState.DONE)
    api.database.transact(lambda tx: tx.run(ended))
    view = why(api, waiting(api.database, person(api.database, api.vo))[0])
    assert "node node1 failed 5 jobs in a row" in str(queue_of(view, at).backoff_reason)
