"""Pilots over HTTP: who sees what, what an order is refused for, what draining and killing tell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import event, select, update

from pipeline.client import Client
from pipeline.errors import BadInput, Conflict, Forbidden, NotFound
from pipeline.store.access import ensure_vo
from pipeline.store.bans import Scope, Terms, ban
from pipeline.store.database import Database, Transaction
from pipeline.store.pilot_commands import PilotFilter, drain, end_now
from pipeline.store.pilot_requests import Order, request
from pipeline.store.tables import pilot_caps, pilots, site_queues
from schemas.api import Role
from schemas.pilot_views import PilotKill, PilotOrder, PilotQuery, PilotSelection
from schemas.plan_views import PlanQuery
from schemas.sites import MetaSiteEntry, PilotCaps
from schemas.states import PilotState
from tests import building
from tests.api_server import RunningApi, running_api
from tests.backlog import person, waiting
from tests.pilot_rows import match
from tests.submitting import all_jobs, array, submit, user

PENDING = ("requested", "submitted", "queued", "held")


@pytest.fixture(scope="module")
def shared_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    with running_api(tmp_path_factory.mktemp("api")) as running:
        yield running


@pytest.fixture
def api(shared_api: RunningApi) -> RunningApi:
    """The shared API as a VO of this test's own sees it."""
    return shared_api.in_new_vo()


def place(api: RunningApi, **queue: Any) -> building.Site:
    """A site of the test's own, whose queue is for its VO."""
    given = {"vos": [api.vo], "max_pilots": 100, "max_pending_pilots": 100, **queue}
    return building.site(api.database, f"S-{uuid4().hex[:8]}", **given)


def pilot(api: RunningApi, at: building.Site, state: str = "running", **columns: Any) -> int:
    """A pilot of the test's VO; one that has not begun was never seen."""
    began = {} if state not in PENDING else {"started_at": None, "last_seen": None, "ends_at": None}
    return building.pilot(api.database, at, vo=api.vo, **{"state": PilotState(state), **began, **columns})


def rows(database: Database, ids: list[int]) -> dict[int, Any]:
    """The rows of pilots by id."""
    found = database.read(lambda tx: tx.rows(select(pilots).where(pilots.c.id.in_(ids))))
    return {row.id: row for row in found}


def set_queue(api: RunningApi, at: building.Site, **columns: Any) -> None:
    """Set columns of a queue; one with a reason backs off."""
    mine = update(site_queues).where(site_queues.c.id == at.queue_id)

    def work(tx: Transaction) -> None:
        until = {"backoff_until": tx.after(600)} if "reason" in columns else {}
        tx.run(mine.values(failures=0, **until, **columns))

    api.database.transact(work)


def room(at: building.Site) -> dict[str, str]:
    """An order's place."""
    return {"site": at.name, "queue": "local"}


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


def test_ordered_pilots_are_requested_and_their_queue_is_due(api: RunningApi) -> None:
    at = place(api, cores=16, max_pending_pilots=5)
    with api.client(Role.OPERATOR) as client:
        made = client.submit_pilots(PilotOrder(**room(at), count=3))
    found = rows(api.database, list(made.pilot_ids))
    assert [(row.state, row.site_queue_id, row.cores) for row in found.values()] == [("requested", at.queue_id, 16)] * 3
    assert len({row.tag for row in found.values()}) == 3
    assert api.services.publisher.depth(["pilots"])["pilots"].ready


def test_an_order_that_is_repeated_with_its_key_gets_the_same_pilots(api: RunningApi) -> None:
    at = place(api, max_pending_pilots=3)
    operator = api.token(Role.OPERATOR)
    with api.http(operator) as http:

        def order(count: int, key: str) -> Any:
            return http.post("/v1/pilots/submit", json={**room(at), "count": count}, headers={"Idempotency-Key": key})

        first, again = order(2, "mine"), order(2, "mine")
        assert first.status_code == again.status_code == 201
        assert first.json()["pilot_ids"] == again.json()["pilot_ids"]
        for count in (1, 3):
            assert order(count, "mine").status_code == 409
        assert order(1, "another").json()["pilot_ids"] != first.json()["pilot_ids"][:1]


def test_orders_that_come_at_once_keep_within_the_limit(database: Database) -> None:
    at = building.site(database, max_pilots=10, max_pending_pilots=10)
    vo_id = database.transact(lambda tx: ensure_vo(tx, "default"))

    def order(number: int) -> bool:
        wanted = Order(vo_id, "default", 1, at.name, "local", 3, key=f"k{number // 2}")
        try:
            database.transact(lambda tx: request(tx, wanted))
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(order, range(12))) == 6  # three keys, each of them twice
    assert len(database.read(lambda tx: tx.rows(select(pilots.c.id)))) == 9


@pytest.mark.parametrize(
    ("queue", "limit"),
    [
        ({"max_pilots": 4}, "max_pilots of queue {label} is 4 and 3 pilots are there: no room for 2 more"),
        ({"max_pending_pilots": 2}, "max_pending_pilots of queue {label} is 2 and 1 pilots do not run yet"),
        ({"max_held_pilots": 1}, "max_held_pilots of queue {label} is 1 and 1 pilots are held"),
        ({"max_submissions": 1}, "max_submissions of queue {label} is 1"),
    ],
)
def test_an_order_over_a_limit_of_the_queue_is_refused_as_a_whole(
    api: RunningApi, queue: dict[str, int], limit: str
) -> None:
    at = place(api, **{"max_pending_pilots": 100, **queue})
    there = [pilot(api, at), pilot(api, at, "held"), pilot(api, at, "lost"), pilot(api, at, "done")]
    with api.client(Role.OPERATOR) as client:
        with pytest.raises(Conflict, match=limit.format(label=f"{at.name}/local")):
            client.submit_pilots(PilotOrder(**room(at), count=2))
        assert len(client.pilots().items) == len(there)


def test_an_order_over_a_nested_limit_is_refused_with_its_name(api: RunningApi) -> None:
    at, other = place(api, max_pending_pilots=9), place(api)
    pilot(api, other, "queued")
    meta = {"name": "both", "queues": [f"{at.name}/local", f"{other.name}/local"], "max_pending_pilots": 2}
    limits = {
        ("site", at.name): PilotCaps(max_pilots=4).model_dump_json(),
        ("vo", api.vo): PilotCaps(max_pilots=3).model_dump_json(),
        ("meta", "both"): MetaSiteEntry.model_validate(meta).model_dump_json(),
    }
    refusals = {1: "", 2: "meta-site both", 3: "VO", 5: "site"}

    def cap(kind: str, name: str) -> None:
        api.database.transact(lambda tx: tx.add(pilot_caps, kind=kind, name=name, body=limits[kind, name]))

    with api.client(Role.OPERATOR) as client:
        for (kind, name), count in zip(limits, (5, 3, 2), strict=True):
            cap(kind, name)
            with pytest.raises(Conflict, match=refusals[count]):
                client.submit_pilots(PilotOrder(**room(at), count=count))
        assert len(client.submit_pilots(PilotOrder(**room(at), count=1)).pilot_ids) == 1


def test_orders_for_the_wrong_place_or_number_are_refused_with_the_reason(api: RunningApi) -> None:
    wide, foreign, banned = place(api, nodes=4, max_pending_pilots=9), place(api, vos=["others"]), place(api)
    scope = Scope(api.vo_id(api.vo), banned.name)
    api.database.transact(lambda tx: ban(tx, scope, Terms("op", "cooling")))
    with api.client(Role.OPERATOR) as client:
        with pytest.raises(NotFound, match="there is no site queue NOWHERE/local"):
            client.submit_pilots(PilotOrder(site="NOWHERE", queue="local", count=1))
        with pytest.raises(BadInput, match="one for each of its nodes; ask for a multiple of that, not for 3"):
            client.submit_pilots(PilotOrder(**room(wide), count=3))
        with pytest.raises(BadInput, match=f"is for others, not for your VO {api.vo}"):
            client.submit_pilots(PilotOrder(**room(foreign), count=1))
        with pytest.raises(Conflict, match=r"is banned; .* lifts it"):
            client.submit_pilots(PilotOrder(**room(banned), count=1))
        assert client.pilots().items == ()
        assert len(client.submit_pilots(PilotOrder(**room(wide), count=8)).pilot_ids) == 8


def test_an_order_says_that_its_queue_backs_off(api: RunningApi) -> None:
    at = place(api)
    set_queue(api, at, reason="sbatch: down")
    with api.client(Role.OPERATOR) as client:
        (warning,) = client.submit_pilots(PilotOrder(**room(at), count=1)).warnings
    assert warning.startswith(f"{at.name}/local is left alone until ")
    assert warning.endswith("sbatch: down")


def test_draining_lets_active_pilots_finish_and_removes_those_that_have_not_begun(api: RunningApi) -> None:
    at = place(api)
    ids = {state.value: pilot(api, at, state.value) for state in PilotState}
    elsewhere = pilot(api, place(api))
    with api.client(Role.OPERATOR, subject="op") as client:
        trial = client.drain_pilots(PilotSelection(site=at.name, why="cooling", dry_run=True))
        assert (trial.removed, trial.drained, trial.ended, trial.dry_run) == (4, 2, 0, True)
        assert not any(row.reason for row in rows(api.database, list(ids.values())).values())
        done = client.drain_pilots(PilotSelection(site=at.name, why="cooling"))
        again = client.drain_pilots(PilotSelection(site=at.name))
    assert (done.removed, done.drained, done.ended) == (4, 2, 0)
    assert (again.removed, again.drained) == (0, 0)
    found = rows(api.database, [*ids.values(), elsewhere])
    assert {state for state, one in ids.items() if found[one].remove_requested} == set(PENDING)
    assert {state for state, one in ids.items() if found[one].drain_requested} == {"running", "lost"}
    told = {row.reason for row in found.values() if row.remove_requested or row.drain_requested}
    assert told == {"drained by op: cooling"}


def test_killing_at_once_removes_active_pilots_too(api: RunningApi) -> None:
    at = place(api)
    ids = {state.value: pilot(api, at, state.value) for state in PilotState}
    with api.client(Role.OPERATOR) as client:
        gentle = client.kill_pilots(PilotKill(queue="local", site=at.name, dry_run=True))
        assert (gentle.removed, gentle.drained, gentle.ended) == (4, 2, 0)
        done = client.kill_pilots(PilotKill(site=at.name, states=(PilotState.RUNNING, PilotState.QUEUED), now=True))
        assert (done.removed, done.drained, done.ended) == (1, 0, 1)
        rest = client.kill_pilots(PilotKill(ids=tuple(ids.values()), now=True))
        assert (rest.removed, rest.drained, rest.ended) == (3, 0, 2)
    found = rows(api.database, list(ids.values()))
    assert {state for state, one in ids.items() if not found[one].remove_requested} == {"done", "failed", "removed"}


def test_a_log_that_was_never_fetched_says_how_to_get_it(api: RunningApi) -> None:
    pilot_id = pilot(api, place(api), "failed")
    with api.client() as client, pytest.raises(NotFound, match=f"`penstock pilots log {pilot_id} --fresh`"):
        client.pilot_log(pilot_id)


def test_a_log_is_asked_for_fetched_and_read_again_only_when_it_has_changed(api: RunningApi) -> None:
    at = place(api)
    pilot_id = pilot(api, at)

    def fetched(stdout: str) -> None:
        api.services.sandboxes.put_pilot_output(api.vo, pilot_id, stdout, "oh\n")
        mine = update(pilots).where(pilots.c.id == pilot_id)
        api.database.transact(lambda tx: tx.run(mine.values(output_at=tx.now, output_wanted_at=None)))

    with api.client(Role.OPERATOR) as client, api.http(api.token(Role.USER)) as http:
        first, second = client.want_pilot_log(pilot_id), client.want_pilot_log(pilot_id)
        assert first == second
        assert rows(api.database, [pilot_id])[pilot_id].output_wanted_at == first.wanted_at
        assert client.pilot(pilot_id).output_wanted_at == first.wanted_at
        fetched("begun\n")
        log = client.pilot_log(pilot_id)
        assert (log.stdout, log.stderr, log.wanted_at) == ("begun\n", "oh\n", None)
        assert log.fetched_at >= first.wanted_at
        answer = http.get(f"/v1/pilots/{pilot_id}/log")
        again = http.get(f"/v1/pilots/{pilot_id}/log", headers={"If-None-Match": answer.headers["ETag"]})
        assert (again.status_code, again.content) == (304, b"")
        fetched("begun\nended\n")
        assert (
            http.get(f"/v1/pilots/{pilot_id}/log", headers={"If-None-Match": answer.headers["ETag"]})
            .json()["stdout"]
            .endswith("ended\n")
        )


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


def test_a_selection_must_name_something_that_is_there(api: RunningApi) -> None:
    at = place(api)
    with api.client(Role.OPERATOR) as client:
        with pytest.raises(BadInput, match="name at least one condition"):
            client.drain_pilots(PilotSelection())
        with pytest.raises(BadInput, match="name at least one condition"):
            client.kill_pilots(PilotKill(now=True, dry_run=True))
        with pytest.raises(NotFound, match="there is no site 'NOWHERE'"):
            client.drain_pilots(PilotSelection(site="NOWHERE"))
        with pytest.raises(NotFound, match=f"the site {at.name} has no queue 'short'"):
            client.kill_pilots(PilotKill(site=at.name, queue="short"))


def test_ten_thousand_pilots_are_drained_and_killed_in_few_statements(database: Database) -> None:
    at = building.site(database)
    vo_id = database.transact(lambda tx: ensure_vo(tx, "default"))
    common = {"site_queue_id": at.queue_id, "site_id": at.id, "vo_id": vo_id, "cores": 1}

    def many(tx: Transaction) -> None:
        for start in range(0, 10_000, 1_000):
            part = range(start, start + 1_000)
            states = {number: "queued" if number % 2 else "running" for number in part}
            new = [{**common, "tag": f"t{n}", "state": states[n], "requested_at": tx.now} for n in part]
            tx.add_all(pilots, new)

    database.transact(many)
    sent: list[str] = []

    def note(*words: Any) -> None:
        sent.append(words[2])

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        told = drain(database, PilotFilter(vo_id, site=at.name), "why")
        assert (told.removed, told.drained, told.queue_ids) == (5_000, 5_000, {at.queue_id})
        ended = end_now(database, PilotFilter(vo_id, queue="local"), "why")
        assert (ended.removed, ended.ended) == (0, 5_000)
    finally:
        event.remove(database.engine, "before_cursor_execute", note)
    assert len([statement for statement in sent if statement.startswith("UPDATE")]) == 15
    assert len(sent) < 80


def test_a_pilot_that_has_begun_meanwhile_is_drained_instead_of_removed(api: RunningApi) -> None:
    """What was read before is judged again when it is changed."""
    at = place(api)
    pilot_id = pilot(api, at, "queued")
    writes: list[str] = []

    def begin(_connection: Any, cursor: Any, statement: str, *_rest: Any) -> None:
        if statement.startswith("UPDATE pilots SET remove_requested") and not writes:
            writes.append(statement)
            cursor.execute("UPDATE pilots SET state = 'running' WHERE id = ?", (pilot_id,))

    event.listen(api.database.engine, "before_cursor_execute", begin)
    try:
        with api.client(Role.OPERATOR) as client:
            done = client.drain_pilots(PilotSelection(site=at.name))
    finally:
        event.remove(api.database.engine, "before_cursor_execute", begin)
    assert (done.removed, done.drained) == (0, 1)
    row = rows(api.database, [pilot_id])[pilot_id]
    assert (row.remove_requested, row.drain_requested) == (False, True)
