"""`penstock drain`, `drains` and `undrain`, and the API's drains: what they print, who may, how they end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from threading import Thread
from uuid import uuid4

import pytest
from sqlalchemy import update

from pipeline.cli.main import run
from pipeline.errors import Forbidden, NotFound
from pipeline.store import bans, drains, instances, migration
from pipeline.store.instances import Identity, Pulse
from pipeline.store.tables import drains as drains_table
from pipeline.store.tables import pilots
from schemas.api import Role
from schemas.drain_views import DrainKind, DrainQuery, DrainRequest, DrainScope, DrainState
from schemas.states import PilotState
from tests import building
from tests.api_server import RunningApi, running_api
from tests.vo_pilots import pilot, place
from tests.waiting import eventually

Say = Callable[..., tuple[str, str]]


@pytest.fixture(scope="module")
def shared_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    with running_api(tmp_path_factory.mktemp("api")) as running:
        migration.upgrade(running.database)
        yield running


@pytest.fixture
def api(shared_api: RunningApi, monkeypatch: pytest.MonkeyPatch) -> RunningApi:
    """The shared API as the operator of a VO of this test's own sees it; commands that go direct find its database."""
    own = shared_api.in_new_vo()
    monkeypatch.setenv("PENSTOCK_API_URL", own.url)
    monkeypatch.setenv("PENSTOCK_TOKEN", own.token(Role.OPERATOR, subject="op"))
    monkeypatch.setenv("PENSTOCK_DATABASE_URL", own.database.url)
    return own


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """What a command line prints to standard output and error; it must end with the exit code `expect`."""

    def printed(*words: str, expect: int = 0) -> tuple[str, str]:
        code = run(words)
        captured = capsys.readouterr()
        assert code == expect, captured
        return captured.out, captured.err

    return printed


def site(api: RunningApi) -> building.Site:
    """A site with a running pilot and one that has not begun."""
    at = place(api)
    pilot(api, at)
    pilot(api, at, "queued")
    return at


def settle(api: RunningApi) -> None:
    """All drains began a while ago."""
    database = api.database
    began = update(drains_table)
    database.transact(lambda tx: tx.run(began.values(started_at=tx.after(-drains.SETTLE - 1))))


def end_pilots(api: RunningApi, at: building.Site) -> None:
    ended = update(pilots).where(pilots.c.site_id == at.id).values(state=PilotState.DONE)
    api.database.transact(lambda tx: tx.run(ended))


def test_a_site_is_drained_for_everybody_past_the_api(api: RunningApi, say: Say) -> None:
    at = site(api)
    out, _ = say("drain", "--site", at.name, "--reason", "new switches", "--deadline", "6h")
    heading, head, first, second = out.splitlines()
    assert heading.startswith(f"site {at.name}: draining (drain ")
    assert head.split() == [
        "WHAT",
        "COUNT",
        "STATE",
        "SITE",
        "VO",
        "QUEUE",
        "INSTANCE",
        "HOLDS",
        "SECONDS",
        "LEFT",
        "WHY",
    ]
    assert first.split()[:5] == ["pilots", "1", "queued", at.name, api.vo]
    assert second.split()[:5] == ["pilots", "1", "running", at.name, api.vo]
    assert api.database.read(bans.banned_queues) >= {(at.queue_id, None)}
    (listed,) = [one for one in json.loads(say("drains", "--json")[0]) if one["target"] == at.name]
    assert (listed["why"], listed["state"], listed["kills"]) == ("new switches", "draining", False)
    page, _ = say("drains", str(listed["id"]))
    assert "left:" in page
    assert "new switches" in page
    again = json.loads(say("drain", "--site", at.name, "--json")[0])
    assert (again["id"], again["deadline_at"]) == (listed["id"], listed["deadline_at"])
    assert say("undrain", "--site", at.name)[0].startswith(f"site {at.name}: drain lifted by ")
    assert say("undrain", "--site", at.name)[0] == f"--site {at.name}: was not drained\n"
    assert (at.queue_id, None) not in api.database.read(bans.banned_queues)


def test_waiting_says_each_change_and_ends_when_nothing_is_left(
    api: RunningApi, say: Say, capsys: pytest.CaptureFixture[str]
) -> None:
    at = site(api)
    said: list[tuple[str, str]] = []
    begun: list[str] = []

    def has_begun() -> bool:
        begun.append(capsys.readouterr().err)
        return "\n" in "".join(begun)

    follower = Thread(target=lambda: said.append(say("drain", "--site", at.name, "--wait")))
    follower.start()
    eventually(has_begun)
    end_pilots(api, at)
    settle(api)
    follower.join()
    out, err = said[0]
    assert out.startswith(f"site {at.name}: drained (drain ")
    lines = "".join([*begun, err]).splitlines()
    assert lines[0] == f"site {at.name}: draining, 1 queued pilot, 1 running pilot left"
    assert lines[-1] == f"site {at.name}: drained, nothing left"
    assert len(lines) <= 3
    pilot(api, at)
    assert say("drain", "--site", at.name, "--wait")[0].startswith(f"site {at.name}: drained"), "it is latched"
    say("undrain", "--site", at.name)


def test_waiting_ends_with_1_at_the_deadline_or_when_it_is_lifted(api: RunningApi, say: Say) -> None:
    at = site(api)
    out, _ = say("drain", "--site", at.name, "--deadline", "0s", "--wait", expect=1)
    assert out.startswith(f"site {at.name}: overdue (drain ")
    assert len(out.splitlines()) == 4
    say("undrain", "--site", at.name)
    follower = Thread(target=lambda: say("drain", "--site", at.name, "--wait", expect=1))
    follower.start()
    eventually(lambda: any(one.target == at.name for one in api.database.read(drains.all_in_force)))
    api.database.transact(lambda tx: drains.lift(tx, drains.Aim(DrainKind.SITE, at.name), "bob"))
    follower.join()


def test_a_vos_operator_drains_it_through_the_api_and_sees_no_others(api: RunningApi, say: Say) -> None:
    at = site(api)
    strangers = api.in_new_vo()
    pilot(strangers, at)
    out, _ = say("drain", "--vo", api.vo, "--site", at.name)
    assert out.startswith(f"site {at.name} for {api.vo}: draining (drain ")
    assert strangers.vo not in out
    vo_id = api.vo_id(api.vo)
    assert {vo for queue_id, vo in api.database.read(bans.banned_queues) if queue_id == at.queue_id} == {vo_id}
    (listed,) = json.loads(say("drains", "--vo", api.vo, "--json")[0])
    assert (listed["kind"], listed["vo"], listed["by"]) == ("site", api.vo, "op")
    assert f"drain lifted by op (drain {listed['id']})" in say("undrain", "--vo", api.vo, "--site", at.name)[0]
    whole = json.loads(say("drain", "--vo", api.vo, "--json")[0])
    assert (whole["kind"], whole["target"]) == ("vo", api.vo)
    with strangers.client(Role.OPERATOR) as theirs:
        assert theirs.drains().items == ()
        with pytest.raises(NotFound):
            theirs.drain(whole["id"])
        with pytest.raises(Forbidden, match="operators drain"):
            theirs.start_drain(DrainRequest(vo=api.vo))
        assert theirs.lift_drain(DrainScope()).lifted is None
    assert "operators drain" in say("drain", "--vo", strangers.vo, expect=2)[1]
    say("undrain", "--vo", api.vo)


def test_a_drain_of_everybody_shows_each_vo_its_own_part(api: RunningApi, say: Say) -> None:
    at = site(api)
    strangers = api.in_new_vo()
    pilot(strangers, at)
    drain_id = json.loads(say("drain", "--site", at.name, "--json")[0])["id"]
    with api.client(Role.OPERATOR) as mine:
        assert {line.vo for line in mine.drain(drain_id).left} == {api.vo}
        assert [one.id for one in mine.drains().items] == [drain_id]
        assert mine.lift_drain(DrainScope(site=at.name)).lifted is None, "it is not theirs"
    say("undrain", "--site", at.name)
    with api.client(Role.MONITOR) as mine:
        assert mine.drains().items == ()
        assert [one.state for one in mine.drains(DrainQuery(lifted=True)).items if one.id == drain_id] == [
            DrainState.LIFTED
        ]
        with pytest.raises(Forbidden):
            mine.start_drain(DrainRequest())


def test_an_instance_and_a_queue_are_told_apart_by_their_names(api: RunningApi, say: Say) -> None:
    name = f"consumer-{uuid4().hex[:8]}"
    known = Identity(name, "consumer", ("matching",), "1", "here", 1, None)
    api.database.transact(lambda tx: instances.beat(tx, known, Pulse()))
    assert say("drain", "matching")[0].startswith("matching: draining (drain ")
    assert say("drain", name)[0].startswith(f"{name}: draining (drain ")
    assert "can't be called back" in say("undrain", name, expect=2)[1]
    api.database.transact(lambda tx: instances.leave(tx, name))
    assert say("drain", name, "--wait", expect=0)[0].startswith(f"{name}: drained")
    assert say("drain", "matching", "--wait")[0].startswith("matching: drained")
    assert say("resume", "matching")[0] == "matching: resumed\n"
    assert say("undrain", "matching")[0] == "matching: was not drained\n"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ((), "Name one thing"),
        (("matching", "--all"), "Name one thing"),
        (("--site", "S", "--all"), "Name one thing"),
        (("--all", "--kill"), "to kill what is left takes a deadline"),
        (("matching", "--deadline", "1s", "--kill"), "processes end by themselves"),
        (("--all", "--deadline", "soon"), "is no duration"),
        (("--site", "NOWHERE"), "there is no site 'NOWHERE'"),
        (("nobody",), "there is no instance 'nobody'"),
    ],
)
def test_what_is_wrong_is_refused_in_one_line(
    api: RunningApi, say: Say, words: tuple[str, ...], complaint: str
) -> None:
    assert api
    out, err = say("drain", *words, expect=2)
    assert (out, len(err.splitlines())) == ("", 1)
    assert complaint in err


def test_drains_page_by_page(api: RunningApi) -> None:
    names = [place(api).name for _ in range(3)]
    with api.client(Role.OPERATOR) as mine:
        ids = [mine.start_drain(DrainRequest(site=name)).id for name in names]
        first = mine.drains(DrainQuery(limit=2))
        assert first.next is not None
        rest = mine.drains(DrainQuery(limit=2, after=first.next))
        assert [one.id for one in (*first.items, *rest.items)] == ids[::-1]
