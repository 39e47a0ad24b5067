"""Pilots over HTTP: who sees what, why they are as they are, what they wrote, what is planned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.client import Client
from pipeline.errors import Forbidden, NotFound
from schemas.api import Role
from schemas.pilot_views import PilotKill, PilotOrder, PilotQuery, PilotSelection
from schemas.plan_views import PlanQuery
from schemas.states import PilotState
from tests.api_server import RunningApi, running_api
from tests.backlog import person, waiting
from tests.pilot_rows import match
from tests.submitting import all_jobs, array, submit, user
from tests.vo_pilots import pilot, place, room, rows, set_queue, store_output


def test_lists_narrow_to_sites_queues_and_several_states(api: RunningApi) -> None:
    here, there = place(api), place(api)
    running, held = pilot(api, here), pilot(api, here, "held", reason="quota", releases=2)
    done, away = pilot(api, here, "done"), pilot(api, there)
    with api.client(Role.MONITOR) as client:
        assert [one.id for one in client.pilots().items] == [away, done, held, running]
        assert [one.id for one in client.pilots(PilotQuery(queue="local", site=there.name)).items] == [away]
        assert client.pilots(PilotQuery(queue="other")).items == ()
        live = PilotQuery(site=here.name, state=(PilotState.RUNNING, PilotState.HELD))
        first, second = client.pilots(live).items
        assert (first.id, first.releases, first.reason, second.id) == (held, 2, "quota", running)
        page = client.pilots(PilotQuery(limit=3))
        assert (len(page.items), page.next) == (3, held)
        assert [one.id for one in client.pilots(PilotQuery(limit=3, after=held)).items] == [running]


def test_a_pilot_is_shown_with_its_node_its_jobs_and_why_it_is_as_it_is(api: RunningApi) -> None:
    at = place(api)
    node = '{"host": "node7", "cores": 8, "version": "0.4.0"}'
    pilot_id = pilot(api, at, node=node, drain_requested=True, reason="drained by op: cooling")
    campaign_id = submit(api.database, {"name": "s", **array(2)}, owner=user(api.database, api.vo)).campaign_id
    match(api.database, all_jobs(api.database, campaign_id), at, pilot_id)
    with api.client() as client:
        view = client.pilot(pilot_id)
    assert (view.host, view.version, view.node) == ("node7", "0.4.0", {"host": "node7", "cores": 8})
    assert (view.batch_system, view.jobs, view.draining) == ("local", 2, True)
    assert [(job.campaign_id, job.step, job.state.value) for job in view.jobs_at_hand] == [
        (campaign_id, "s", "matched")
    ] * 2
    assert view.because == ("drained by op: cooling: it takes no more jobs, and ends after the 2 that it has",)


@pytest.mark.parametrize(
    ("state", "columns", "queue", "words"),
    [
        ("requested", {}, {}, "it is submitted at the next round of"),
        ("queued", {"reason": "Priority"}, {}, "it waits in its batch system: Priority"),
        ("held", {"reason": "no quota", "releases": 2}, {}, "holds it: no quota; let go on 2 times so far"),
        ("queued", {}, {"reason": "sbatch: down"}, "is left alone until"),
        ("queued", {}, {"dead_letter_id": 7}, "penstock dead requeue 7"),
        ("queued", {"remove_requested": True, "reason": "surplus"}, {}, "surplus: its batch system removes it"),
        ("running", {}, {}, "it runs and asks for jobs"),
        ("running", {"failures_in_row": 5}, {}, "its node has failed 5 jobs in a row: it takes no more jobs, and ends"),
        ("draining", {"reason": "idle for 9 s"}, {}, "idle for 9 s: it takes no more jobs, and ends"),
        ("lost", {}, {}, "its jobs have started again elsewhere"),
        ("failed", {"reason": "exit code 1"}, {}, "exit code 1"),
    ],
)
def test_why_a_pilot_is_in_its_state_is_said_in_a_sentence(
    api: RunningApi, state: str, columns: dict[str, Any], queue: dict[str, Any], words: str
) -> None:
    at = place(api)
    set_queue(api, at, **queue)
    pilot_id = pilot(api, at, state, **columns)
    with api.client() as client:
        assert words in " / ".join(client.pilot(pilot_id).because)


def test_vos_are_walls_for_pilots(api: RunningApi, shared_api: RunningApi) -> None:
    other = shared_api.in_new_vo()
    at = place(api, vos=[api.vo, other.vo])
    mine, queued = pilot(api, at), pilot(api, at, "queued")
    with other.client(Role.OPERATOR) as theirs:
        assert theirs.pilots().items == ()
        for ask in (lambda: theirs.pilot(mine), lambda: theirs.want_pilot_log(mine), lambda: theirs.pilot_log(mine)):
            with pytest.raises(NotFound, match=f"your VO has no pilot {mine}"):
                ask()
        assert theirs.kill_pilots(PilotKill(ids=(mine, queued), now=True)).model_dump(exclude={"dry_run"}) == {
            "removed": 0, "drained": 0, "ended": 0,
        }  # fmt: skip
        assert theirs.drain_pilots(PilotSelection(site=at.name)).drained == 0
    assert not any(row.remove_requested or row.drain_requested for row in rows(api.database, [mine, queued]).values())


def test_only_operators_order_drain_kill_and_ask_for_output(api: RunningApi) -> None:
    at = place(api)
    pilot_id = pilot(api, at)
    commands: tuple[Callable[[Client], object], ...] = (
        lambda client: client.submit_pilots(PilotOrder(**room(at), count=1)),
        lambda client: client.drain_pilots(PilotSelection(site=at.name)),
        lambda client: client.kill_pilots(PilotKill(site=at.name)),
        lambda client: client.want_pilot_log(pilot_id),
    )
    for role in (Role.USER, Role.MONITOR):
        with api.client(role) as client:
            assert client.pilot(pilot_id).id == pilot_id
            for command in commands:
                with pytest.raises(Forbidden, match="is for operator"):
                    command(client)


def test_a_log_that_was_never_fetched_says_how_to_get_it(api: RunningApi) -> None:
    pilot_id = pilot(api, place(api), "failed")
    with api.client() as client, pytest.raises(NotFound, match=f"`penstock pilots log {pilot_id} --fresh`"):
        client.pilot_log(pilot_id)


def test_a_log_is_asked_for_fetched_and_read_again_only_when_it_has_changed(api: RunningApi) -> None:
    at = place(api)
    pilot_id = pilot(api, at)
    with api.client(Role.OPERATOR) as client, api.http(api.token(Role.USER)) as http:
        first, second = client.want_pilot_log(pilot_id), client.want_pilot_log(pilot_id)
        assert first == second
        assert rows(api.database, [pilot_id])[pilot_id].output_wanted_at == first.wanted_at
        assert client.pilot(pilot_id).output_wanted_at == first.wanted_at
        store_output(api, pilot_id, "begun\n", "oh\n")
        log = client.pilot_log(pilot_id)
        assert (log.stdout, log.stderr, log.wanted_at) == ("begun\n", "oh\n", None)
        assert log.fetched_at >= first.wanted_at
        answer = http.get(f"/v1/pilots/{pilot_id}/log")
        again = http.get(f"/v1/pilots/{pilot_id}/log", headers={"If-None-Match": answer.headers["ETag"]})
        assert (again.status_code, again.content) == (304, b"")
        store_output(api, pilot_id, "begun\nended\n", "oh\n")
        changed = http.get(f"/v1/pilots/{pilot_id}/log", headers={"If-None-Match": answer.headers["ETag"]})
        assert changed.json()["stdout"].endswith("ended\n")


def test_the_plan_is_told_and_nothing_of_it_is_done(api: RunningApi, shared_api: RunningApi) -> None:
    at, other = place(api), place(api)
    foreign = shared_api.in_new_vo()
    place(foreign)
    waiting(api.database, person(api.database, api.vo), 3, requirements={"sites": [at.name]})
    with api.client(Role.MONITOR) as client:
        view = client.plan()
        assert {row.site: (row.waiting_jobs, row.request) for row in view.items} == {
            at.name: (3, 1),
            other.name: (0, 0),
        }
        assert (view.waiting_jobs, view.request, view.is_sure) == (3, 1, True)
        assert all(row.why for row in view.items)
        narrow = client.plan(PlanQuery(site=other.name, queue="local"))
        assert ([row.site for row in narrow.items], narrow.request) == ([other.name], 0)
        assert client.plan(PlanQuery(queue="nothing")).items == ()
        assert client.pilots().items == ()


def test_a_plan_without_a_reading_of_the_demand_is_503(tmp_path: Path) -> None:
    with (
        running_api(tmp_path, demand_sources=("nobody",)) as blind,
        blind.http(blind.token(Role.USER)) as http,
    ):
        answer = http.get("/v1/provisioning/plan")
    assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
    assert "no demand source 'nobody' is installed" in answer.json()["detail"]
