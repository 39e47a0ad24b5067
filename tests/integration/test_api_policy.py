"""A VO's policy, shares and limits over HTTP: applied as a whole, counted exactly, hidden from other VOs."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from pipeline.client import Client
from pipeline.errors import BadInput, Forbidden
from pipeline.store.access import ensure_identity
from pipeline.store.database import Transaction
from pipeline.store.tables import identities, limit_rules, limits, releases, start_rates, usage
from schemas.api import Role
from schemas.policy import LimitEntry, Policy
from schemas.share_views import LimitView
from schemas.states import JobState
from tests import building
from tests.api_server import RunningApi, running_api
from tests.backlog import person, waiting
from tests.submitting import User, move

HOUR = 3_600


@pytest.fixture(scope="module", params=["sqlite", "mariadb"])
def shared_api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    on_mariadb = request.param == "mariadb"
    url = request.getfixturevalue("mariadb_server").new_database() if on_mariadb else ""
    with running_api(tmp_path_factory.mktemp("api"), database_url=url) as running:
        yield running


def policy(**parts: Any) -> Policy:
    return Policy.model_validate(parts)


def running_jobs(api: RunningApi, owner: User, many: int, at: building.Site, **wants: Any) -> list[int]:
    """The ids of so many jobs that run at a site, of job type `Merge`."""
    ids = waiting(api.database, owner, many, job_type="Merge", requirements=wants)
    pilot_id = building.pilot(api.database, at, vo=api.vo)
    granted = {"cores": 1, "memory": 1, "disk": 1, "gpus": 0, "alternative": 0, "charge": HOUR}
    move(api.database, ids, JobState.MATCHED, pilot_id=pilot_id, site_id=at.id, **granted)
    return ids


def running(api: RunningApi, name: str) -> tuple[int, int]:
    """(running, free) of a limit as the VO's people see it."""
    with api.client() as client:
        (found,) = [item for item in client.limits().items if item.name == name]
    return found.running, found.free


SHARES = {"groups": {"prod": {"share": 3, "owners": {"alice": 2}}, "user": {"share": 1}}}


def test_a_policy_is_applied_once_and_then_makes_no_difference(api: RunningApi) -> None:
    person(api.database, api.vo, "alice")
    wanted = policy(shares=SHARES, limits=[{"name": "merges", "max_running": 5, "group": "prod"}])
    with api.client(Role.OPERATOR, subject="op") as client:
        dry = client.apply_policy(wanted, dry_run=True)
        assert client.policy().policy == Policy()
        assert client.policy().applied_at is None
        diff = client.apply_policy(wanted)
        assert diff.added == dry.added == (
            "group prod: share 3", "owner alice of prod: share 2", "group user: share 1",
            "limit merges: 5 running (group=prod)",
        )  # fmt: skip
        assert (dry.dry_run, diff.dry_run) == (True, False)
        again = client.apply_policy(wanted)
        assert (again.added, again.changed, again.removed) == ((), (), ())
        view = client.policy()
    assert (view.policy, view.applied_by) == (wanted, "op")


def test_a_difference_says_what_becomes_of_shares_and_limits(api: RunningApi) -> None:
    first = policy(
        shares=SHARES,
        limits=[{"name": "a", "max_running": 5, "group": "prod"}, {"name": "b", "max_running": 1, "job_type": "Merge"}],
    )
    second = policy(
        shares={"groups": {"prod": {"share": 2}}},
        limits=[{"name": "a", "max_running": 7, "group": "prod"}],
    )
    with api.client(Role.OPERATOR) as client:
        client.apply_policy(first)
        diff = client.apply_policy(second)
        assert diff.changed == ("group prod: share 3 -> 2", "limit a: 5 -> 7 running (group=prod)")
        assert diff.removed == ("owner alice of prod: share 2 -> 1", "group user: share 1 -> 1", "limit b")
        assert [item.name for item in client.limits().items] == ["a"]
        assert client.apply_policy(first).added[-1] == "limit b: 1 running (job_type=Merge)"


def test_what_nobody_has_heard_of_is_a_warning_and_no_error(api: RunningApi) -> None:
    person(api.database, api.vo, "alice", "prod")
    wanted = policy(
        shares={"groups": {"prdo": {"share": 2}, "prod": {"owners": {"bob": 2}}, "user": {"owners": {"alice": 1}}}},
        limits=[{"name": "x", "max_running": 1, "site": "ATLANTIS", "job_type": "Merge", "owner": "bob", "label": "l"}],
    )
    with api.client(Role.OPERATOR) as client:
        assert set(client.apply_policy(wanted).warnings) == {
            "shares: there is no group prdo yet",
            "shares: there is no group user yet",
            "shares: there is no owner bob in group prod yet",
            "shares: alice is in group prod, not in user",
            "limit x: there is no site ATLANTIS yet",
            "limit x: there is no job type Merge yet",
            "limit x: there is no owner bob yet",
        }


def test_a_limit_on_a_name_that_several_people_have_says_so(api: RunningApi) -> None:
    vo_id = person(api.database, api.vo, "alice").vo_id
    api.database.transact(lambda tx: ensure_identity(tx, vo_id, "https://elsewhere", "alice", "user"))
    wanted = policy(
        shares={"groups": {"prod": {"owners": {"alice": 2}}, "user": {"owners": {"alice": 3}}}},
        limits=[{"name": "x", "max_running": 1, "owner": "alice"}],
    )
    with api.client(Role.OPERATOR) as client:
        assert client.apply_policy(wanted).warnings == (
            "limit x: several people are called alice; it is about the first of them",
        )


def test_policies_that_are_applied_at_once_come_one_after_the_other(api: RunningApi) -> None:
    token = api.token(Role.OPERATOR)

    def apply(turn: int) -> None:
        limits = [{"name": f"limit-{turn}-{number}", "max_running": 1, "owner": "a"} for number in range(3)]
        with Client(api.url, token) as client:
            client.apply_policy(policy(limits=[*limits, {"name": "shared", "max_running": turn, "owner": "a"}]))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(apply, range(8)))
    with api.client() as client:
        declared = {entry.name: entry.max_running for entry in client.policy().policy.limits}
        assert {item.name: item.maximum for item in client.limits().items} == declared
    assert len(declared) == 4


def test_a_new_limit_starts_with_an_exact_count_of_what_runs_and_of_ends_not_booked(api: RunningApi) -> None:
    here, there = building.site(api.database, f"A-{api.vo}"), building.site(api.database, f"B-{api.vo}")
    alice, bob = person(api.database, api.vo, "alice"), person(api.database, api.vo, "bob")
    running_jobs(api, alice, 3, here)
    running_jobs(api, alice, 2, there, labels=["licence:matlab"])
    bobs = running_jobs(api, bob, 4, here)
    move(api.database, bobs[:1], JobState.RUNNING, JobState.COMPLETING)
    wanted = policy(
        limits=[
            {"name": "all-merges", "max_running": 100, "job_type": "Merge"},
            {"name": "alice", "max_running": 4, "owner": "alice"},
            {"name": "here", "max_running": 100, "site": here.name, "group": "prod"},
            {"name": "matlab", "max_running": 10, "label": "licence:matlab"},
            {"name": "nobody", "max_running": 10, "owner": "carol"},
        ]
    )
    with api.client(Role.OPERATOR) as client:
        client.apply_policy(wanted)
    unbooked = api.database.read(lambda tx: len(tx.rows(select(releases).where(releases.c.job_id == bobs[0]))))
    assert unbooked == 1
    assert running(api, "all-merges") == (9, 91)
    assert running(api, "alice") == (5, 0)
    assert running(api, "here") == (7, 93)
    assert running(api, "matlab") == (2, 8)
    assert running(api, "nobody") == (0, 10)


def test_a_limit_that_is_about_other_jobs_than_before_is_counted_anew(api: RunningApi) -> None:
    at = building.site(api.database, f"A-{api.vo}")
    running_jobs(api, person(api.database, api.vo, "alice"), 3, at)
    running_jobs(api, person(api.database, api.vo, "bob"), 2, at)
    with api.client(Role.OPERATOR) as client:
        client.apply_policy(policy(limits=[{"name": "x", "max_running": 9, "owner": "alice"}]))
        assert running(api, "x") == (3, 6)
        diff = client.apply_policy(policy(limits=[{"name": "x", "max_running": 9, "owner": "bob"}]))
        assert diff.changed == ("limit x: 9 running (owner=bob)",)
        assert running(api, "x") == (2, 7)
        client.apply_policy(policy(limits=[{"name": "x", "max_running": 1, "owner": "bob"}]))
        assert running(api, "x") == (2, 0)
        client.apply_policy(policy())
        client.apply_policy(policy(limits=[{"name": "x", "max_running": 5, "job_type": "Merge"}]))
        assert running(api, "x") == (5, 0)


def test_a_rule_that_is_declared_again_keeps_its_id(api: RunningApi) -> None:
    query = select(limit_rules.c.id, limit_rules.c.declared).where(limit_rules.c.vo_id == api.vo_id(api.vo))
    wanted = policy(limits=[{"name": "x", "max_running": 9, "owner": "alice"}])
    with api.client(Role.OPERATOR) as client:
        client.apply_policy(wanted)
        before = api.database.read(lambda tx: tx.rows(query))
        client.apply_policy(policy())
        assert [row.declared for row in api.database.read(lambda tx: tx.rows(query))] == [False]
        client.apply_policy(wanted)
    assert api.database.read(lambda tx: tx.rows(query)) == before


def test_only_operators_declare_and_everybody_of_the_vo_reads(api: RunningApi) -> None:
    with api.client(Role.USER) as user, pytest.raises(Forbidden):
        user.apply_policy(policy())
    for role in (Role.USER, Role.MONITOR):
        with api.client(role) as reader:
            assert reader.policy().policy == Policy()
            assert reader.shares().items == ()
            assert [item for item in reader.limits().items if item.kind == "rule"] == []


def test_vos_are_walls_for_policies_shares_and_limits(api: RunningApi, shared_api: RunningApi) -> None:
    other = shared_api.in_new_vo()
    alice = person(api.database, api.vo, "alice")
    at = building.site(api.database, f"A-{api.vo}", vos=[api.vo], running=5)
    running_jobs(api, alice, 2, at)
    with api.client(Role.OPERATOR) as mine, other.client(Role.OPERATOR) as theirs:
        mine.apply_policy(policy(shares=SHARES, limits=[{"name": "x", "max_running": 9, "owner": "alice"}]))
        assert theirs.apply_policy(policy(limits=[{"name": "x", "max_running": 3, "owner": "alice"}])).warnings == (
            "limit x: there is no owner alice yet",
        )
        assert [(item.name, item.kind, item.running) for item in theirs.limits().items] == [("x", "rule", 0)]
        assert theirs.shares().items == ()
        assert theirs.policy().policy.shares == Policy().shares
        assert {(item.name, item.kind) for item in mine.limits().items} == {(at.name, "site"), ("x", "rule")}
        assert running(api, "x") == (2, 7)


@pytest.mark.parametrize(
    ("body", "field", "reason"),
    [
        ({"share": {}}, "share", "Extra inputs are not permitted"),
        ({"shares": {"groups": {"prod": {"share": -1}}}}, "shares.groups.prod.share", "greater than or equal to"),
        ({"shares": {"groups": {"prod": {"share": "nan"}}}}, "shares.groups.prod.share", "finite number"),
        ({"shares": {"groups": {"x" * 10_000: {}}}}, f"shares.groups.{'x' * 10_000}.[key]", "match pattern"),
        ({"limits": [{"name": "x", "max_running": -1, "owner": "a"}]}, "limits.0.max_running", "greater than or equal"),
        ({"limits": [{"name": "x", "max_running": 1}]}, "limits.0", "selects nothing"),
        ({"limits": [{"name": "x", "max_running": 1, "label": "a b"}]}, "limits.0.label", "match pattern"),
        ({"limits": [{"name": "x", "max_running": 2**31, "owner": "a"}]}, "limits.0.max_running", "less than or equal"),
    ],
    ids=["field", "share", "nan", "name", "maximum", "selectors", "label", "bound"],
)
def test_nonsense_is_refused_with_the_field_and_the_reason(
    api: RunningApi, body: dict[str, Any], field: str, reason: str
) -> None:
    with api.http(api.token(Role.OPERATOR)) as http:
        answer = http.put("/v1/policy", json=body)
        assert http.get("/v1/policy").json()["applied_at"] is None
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    found = {error["field"]: error["reason"] for error in answer.json()["errors"]}
    assert field in found
    assert reason in found[field]


def test_the_client_says_which_field_is_wrong(api: RunningApi) -> None:
    twice = LimitEntry(name="x", max_running=1, owner="a")
    wrong = Policy.model_construct(limits=(twice, twice))
    with api.client(Role.OPERATOR) as client, pytest.raises(BadInput, match="two limits are named x"):
        client.apply_policy(wrong)


def test_shares_say_what_each_was_promised_and_got(api: RunningApi) -> None:
    alice, bob, carol = (
        person(api.database, api.vo, "alice"),
        person(api.database, api.vo, "bob"),
        person(api.database, api.vo, "carol", "user"),
    )
    half_life = api.services.settings.share_half_life

    def use(tx: Transaction) -> None:
        groups = {row.id: row.group_id for row in tx.rows(select(identities.c.id, identities.c.group_id))}
        for owner, weight, age in ((alice, 4 * HOUR, 0.0), (bob, 4 * HOUR, half_life), (carol, 2 * HOUR, 0.0)):
            tx.add(
                usage,
                vo_id=owner.vo_id,
                group_id=groups[owner.identity_id],
                owner_id=owner.identity_id,
                weight=weight,
                landmark=tx.now - timedelta(seconds=age),
                charged=weight,
                settled=HOUR,
                used=HOUR // 2,
            )

    api.database.transact(use)
    with api.client(Role.OPERATOR) as client:
        client.apply_policy(policy(shares={"groups": {"prod": {"share": 3, "owners": {"bob": 2}}}}))
        view = client.shares()
    rows = {(item.group, item.owner): item for item in view.items}
    # 6 core-hours by a share of 3, 2 by 1: nearly the same, so who is next is no matter here
    assert set(rows) == {("prod", None), ("prod", "bob"), ("prod", "alice"), ("user", None), ("user", "carol")}
    assert [owner for group, owner in rows if group == "prod"] == [None, "bob", "alice"]
    assert [rows["prod", None].share, rows["prod", "bob"].share, rows["user", None].share] == [3, 2, 1]
    assert rows["prod", None].entitled == pytest.approx(0.75)
    assert rows["prod", "bob"].entitled == pytest.approx(0.5)
    assert rows["user", "carol"].entitled == pytest.approx(0.25)
    assert rows["prod", "bob"].usage == pytest.approx(2 * HOUR, rel=1e-3)
    assert rows["prod", None].usage == pytest.approx(6 * HOUR, rel=1e-3)
    assert rows["user", None].part == pytest.approx(0.25, rel=1e-3)
    whole = rows["prod", None]
    assert (whole.charged, whole.settled, whole.used) == (8 * HOUR, 2 * HOUR, HOUR)
    assert rows["prod", "alice"].issuer == "penstock"


def test_a_group_that_the_policy_names_is_listed_before_anybody_in_it_has_used_anything(api: RunningApi) -> None:
    person(api.database, api.vo, "alice")
    person(api.database, api.vo, "carol", "user")
    with api.client(Role.OPERATOR) as client:
        client.apply_policy(policy(shares=SHARES))
        found = {(item.group, item.owner): item.entitled for item in client.shares().items}
    assert found == {("user", None): 0.25, ("prod", None): 0.75, ("prod", "alice"): 0.75}


def test_start_rates_of_sites_are_listed_with_what_may_start_now(api: RunningApi) -> None:
    at = building.site(api.database, f"A-{api.vo}", vos=[api.vo])
    api.database.transact(lambda tx: tx.add(start_rates, site_id=at.id, jobs=100, period=1e6, tokens=40.5, at=tx.now))
    with api.client() as client:
        (found,) = client.limits().items
    assert found == LimitView(
        name=at.name, kind="start_rate", site=at.name, maximum=100, running=60, free=40, seconds=1e6
    )


def test_limits_of_sites_that_the_vo_may_not_use_are_not_told(api: RunningApi) -> None:
    building.site(api.database, f"A-{api.vo}", vos=["somebody-else"], running=5)
    with api.client() as client:
        assert client.limits().items == ()


def test_an_overfull_limit_has_nothing_free(api: RunningApi) -> None:
    at = building.site(api.database, f"A-{api.vo}", vos=[api.vo], running=2)
    of_site = (limits.c.subject_id == at.id, limits.c.kind == "site")
    api.database.transact(lambda tx: tx.run(update(limits).where(*of_site).values(running=3)))
    assert running(api, at.name) == (3, 0)
