"""`penstock pilots`: what it prints, asks and refuses, against a real API."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import click
import pytest
from click.shell_completion import ShellComplete
from sqlalchemy import update

from pipeline.cli.main import cli, run
from pipeline.store.tables import pilot_caps, pilots
from schemas.api import Role
from schemas.sites import MetaSiteEntry, PilotCaps
from tests import building
from tests.api_server import RunningApi
from tests.backlog import person, waiting
from tests.vo_pilots import pilot, place, rows, store_output
from tests.waiting import eventually

Say = Callable[..., str]

pytestmark = pytest.mark.usefixtures("as_operator")


@pytest.fixture
def at(api: RunningApi) -> building.Site:
    """A site whose queue is for the test's VO."""
    return place(api, max_pilots=9, max_pending_pilots=9)


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[str, str]]:
    """What a command line prints to standard output and error; it must end with the exit code `expect`."""

    def say(*words: str, expect: int = 0) -> tuple[str, str]:
        assert run(["pilots", *words]) == expect
        captured = capsys.readouterr()
        return captured.out, captured.err

    return say


@pytest.fixture
def said(printed: Callable[..., tuple[str, str]]) -> Say:
    """What it prints to standard output."""
    return lambda *words: printed(*words)[0]


@pytest.fixture
def refused(printed: Callable[..., tuple[str, str]]) -> Say:
    """The one line that a refused command says."""

    def complaint(*words: str, expect: int = 2) -> str:
        out, err = printed(*words, expect=expect)
        assert (out, len(err.splitlines())) == ("", 1)
        return err

    return complaint


def row(api: RunningApi, pilot_id: int) -> Any:
    """Its row."""
    return rows(api.database, [pilot_id])[pilot_id]


def test_the_list_says_where_pilots_are_and_why_they_do_not_run(api: RunningApi, at: building.Site, said: Say) -> None:
    held = pilot(api, at, "held", reason="no quota", releases=3)
    drains = pilot(api, at, drain_requested=True, reason="drained by op")
    unwanted = pilot(api, at, "queued", remove_requested=True, reason="there is no work for it")
    lines = said("list", "--state", "held", "--state", "running", "--state", "queued", "--site", at.name).splitlines()
    head, first, second, third = (line.split() for line in lines)
    assert head[:7] == ["ID", "SITE", "QUEUE", "HOST", "STATE", "LEAVING", "RELEASES"]
    assert first[:7] == [str(unwanted), at.name, "local", "-", "queued", "is", "removed"]
    assert second[:6] == [str(drains), at.name, "local", "-", "running", "drains"]
    assert third[:7] == [str(held), at.name, "local", "-", "held", "-", "3"]
    assert lines[3].endswith("no quota")
    shown = json.loads(said("list", "--queue", "local", "--limit", "2", "--json"))
    assert [(one["id"], one["removing"], one["draining"]) for one in shown] == [
        (unwanted, True, False),
        (drains, False, True),
    ]


def test_a_pilot_is_shown_on_one_page(api: RunningApi, at: building.Site, said: Say) -> None:
    node = {"host": "node7", "cores": 8, "details": {"machine": "x86_64", "gpu": {"count": 2}}, "version": "0.4.0"}
    pilot_id = pilot(api, at, node=json.dumps(node), batch_id="77.0", releases=1)
    page = said("show", str(pilot_id))
    assert page.startswith(f"pilot {pilot_id}: running at {at.name}/local\n  it runs and asks for jobs")
    fields = {tuple(line.split(maxsplit=1)) for line in page.splitlines() if line}
    assert {("version", "0.4.0"), ("machine", "x86_64"), ("released", "once"), ("host", "node7")} <= fields
    assert "gpu count" in page
    assert page.endswith(f"what it wrote: penstock pilots log {pilot_id} --fresh\n")
    assert json.loads(said("show", str(pilot_id), "--json"))["node"]["host"] == "node7"


def test_pilots_are_submitted_or_the_limit_is_named(
    api: RunningApi, at: building.Site, said: Say, refused: Say
) -> None:
    answer = said("submit", f"{at.name}/local", "4")
    with api.client() as client:
        ids = sorted(one.id for one in client.pilots().items)
    assert answer == f"4 pilots requested on {at.name}/local: {ids[0]} to {ids[-1]}\n"
    assert len(ids) == 4
    complaint = refused("submit", f"{at.name}/local", "6")
    assert f"max_pilots of queue {at.name}/local is 9 and 4 pilots are there: no room for 6 more" in complaint
    assert "'short' is no site queue; write it like CERN/short" in refused("submit", "short", "6")
    assert "there is no site queue" in refused("submit", "A/short", "6")


def test_draining_wants_a_yes_where_nobody_can_be_asked(
    api: RunningApi, at: building.Site, printed: Callable[..., tuple[str, str]], refused: Say
) -> None:
    active, waiting = pilot(api, at), pilot(api, at, "queued")
    assert "say --yes, or --dry-run" in refused("drain", "--site", at.name)
    assert "Name pilots by id or by an option." in refused("drain", "--yes")
    assert printed("drain", "--site", at.name, "--dry-run")[0] == (
        "would be 2 pilots (1 pending removed, 1 active drained)\n"
    )
    assert not row(api, active).drain_requested
    out, err = printed("drain", "--site", at.name, "--reason", "cooling", "--yes")
    assert out == "2 pilots (1 pending removed, 1 active drained)\n"
    assert f"`penstock sites ban {at.name} --reason ...`" in err
    assert (row(api, active).drain_requested, row(api, active).reason) == (True, "drained by op: cooling")
    assert row(api, waiting).remove_requested
    out, err = printed("drain", str(active), str(waiting), "--yes")
    assert (out, err) == ("0 pilots\n", "none of them lives and was not told before\n")


def test_killing_is_gentle_unless_it_says_now(api: RunningApi, at: building.Site, said: Say) -> None:
    first, second = pilot(api, at), pilot(api, at)
    assert said("kill", str(first), "--yes") == "1 pilot (1 active drained)\n"
    assert said("kill", "--queue", "local", "--state", "running", "--site", at.name, "--now", "--yes") == (
        "2 pilots (2 active ended)\n"
    )
    assert row(api, second).remove_requested


def test_on_a_terminal_somebody_is_asked(
    api: RunningApi,
    at: building.Site,
    printed: Callable[..., tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    pilot_id = pilot(api, at)
    for answer, code in (("n\n", 1), ("y\n", 0)):
        (tmp_path / "typed").write_text(answer)
        with (tmp_path / "typed").open() as typed:
            monkeypatch.setattr(typed, "isatty", lambda: True, raising=False)
            monkeypatch.setattr("sys.stdin", typed)
            _out, err = printed("drain", str(pilot_id), expect=code)
        assert "1 pilot (1 active drained): go on? [y/N]" in err
        assert row(api, pilot_id).drain_requested is (answer == "y\n")


def test_a_stored_log_is_printed_stream_by_stream(
    api: RunningApi, at: building.Site, printed: Callable[..., tuple[str, str]], refused: Say
) -> None:
    pilot_id = pilot(api, at, "done")
    words = ("log", str(pilot_id))
    assert f"`penstock pilots log {pilot_id} --fresh`" in refused(*words)
    store_output(api, pilot_id, "begun\n", "oh\n")
    assert printed(*words) == ("begun\n", "oh\n")
    assert printed(*words, "--stdout") == ("begun\n", "")
    assert printed(*words, "--stderr") == ("oh\n", "")
    assert json.loads(printed(*words, "--json")[0])["stderr"] == "oh\n"


def test_a_fresh_log_is_waited_for(api: RunningApi, at: building.Site, printed: Callable[..., tuple[str, str]]) -> None:
    pilot_id = pilot(api, at)
    store_output(api, pilot_id, "old\n", "")

    def fetch() -> None:
        eventually(lambda: row(api, pilot_id).output_wanted_at is not None, within=20)
        store_output(api, pilot_id, "new\n", "")

    thread = Thread(target=fetch)
    thread.start()
    out, err = printed("log", str(pilot_id), "--fresh")
    thread.join()
    assert (out, err) == ("new\n", f"waiting for the output of pilot {pilot_id}\n")


def test_a_fresh_log_that_does_not_come_ends_in_one_clear_line(
    api: RunningApi, at: building.Site, printed: Callable[..., tuple[str, str]]
) -> None:
    pilot_id = pilot(api, at)
    _out, err = printed("log", str(pilot_id), "--fresh", "--timeout", "1s", expect=1)
    assert err.splitlines()[1].startswith(f"penstock: the output of pilot {pilot_id} did not come within 1 s")
    assert row(api, pilot_id).output_wanted_at is not None


def test_a_fresh_log_of_which_the_batch_system_knows_nothing_says_so(
    api: RunningApi, at: building.Site, printed: Callable[..., tuple[str, str]]
) -> None:
    unknown, kept = pilot(api, at, "failed"), pilot(api, at, "done")
    store_output(api, kept, "old\n", "")

    def give_up(pilot_id: int) -> None:
        eventually(lambda: row(api, pilot_id).output_wanted_at is not None, within=20)
        mine = update(pilots).where(pilots.c.id == pilot_id).values(output_wanted_at=None)
        api.database.transact(lambda tx: tx.run(mine))

    for pilot_id, code, out in ((unknown, 2, ""), (kept, 0, "old\n")):
        thread = Thread(target=give_up, args=(pilot_id,))
        thread.start()
        got, err = printed("log", str(pilot_id), "--fresh", expect=code)
        thread.join()
        assert got == out
        assert f"the batch system local of {at.name}/local has no output of pilot {pilot_id}" in err


def test_users_may_look_and_not_touch(
    api: RunningApi, at: building.Site, said: Say, refused: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    pilot_id = pilot(api, at)
    monkeypatch.setenv("PENSTOCK_TOKEN", api.token(Role.USER))
    assert str(pilot_id) in said("list")
    for words in (("submit", f"{at.name}/local", "1"), ("drain", "7", "--yes"), ("kill", "7", "--dry-run")):
        assert "is for operator; your token's role is user" in refused(*words)


def test_the_plan_is_a_line_for_each_queue_with_the_reason(
    api: RunningApi, at: building.Site, printed: Callable[..., tuple[str, str]], said: Say
) -> None:
    waiting(api.database, person(api.database, api.vo), 2, requirements={"sites": [at.name]})
    pilot(api, at, "held")
    out, err = printed("plan", "--site", at.name)
    head, row = out.splitlines()
    assert head.split() == ["SITE", "QUEUE", "WAITING", "RUNNING", "IDLE", "PENDING", "HELD", "WANTED", "PLAN", "WHY"]
    assert row.split()[:7] == [at.name, "local", "2", "0", "-", "1", "1"]
    assert "2 jobs wait" in row
    assert err.startswith("2 jobs of your VO wait for 2 cores: ")
    (shown,) = json.loads(said("plan", "--queue", "local", "--json"))["items"]
    assert (shown["site"], shown["waiting_jobs"]) == (at.name, 2)
    out, err = printed("plan", "--site", "NOWHERE")
    assert (len(out.splitlines()), err.splitlines()[0][:14]) == (1, "no site queues")


def test_sites_are_listed_with_the_limits_over_several_queues(
    api: RunningApi, at: building.Site, capsys: pytest.CaptureFixture[str]
) -> None:
    meta = MetaSiteEntry(name=f"M-{at.name}", queues=(f"{at.name}/local",), max_pending_pilots=3)
    bodies = {
        ("site", at.name): PilotCaps(max_pilots=7),
        ("meta", meta.name): meta,
        ("vo", api.vo): PilotCaps(max_held_pilots=5),
        ("vo", f"other-{api.vo}"): PilotCaps(max_pilots=1),
    }
    rows = [
        {"kind": kind, "name": name, "body": limits.model_dump_json(exclude_defaults=True)}
        for (kind, name), limits in bodies.items()
    ]
    api.database.transact(lambda tx: tx.add_all(pilot_caps, rows))
    assert run(["sites", "list"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["site", at.name, "7", "-", "-", "-", "-"] in lines
    assert ["meta-site", meta.name, "-", "3", "-", "-", f"{at.name}/local"] in lines
    assert ["VO", api.vo, "-", "-", "5", "-", "-"] in lines
    assert not [line for line in lines if f"other-{api.vo}" in line]


def offered(line: str) -> list[str]:
    """What a shell would offer at the end of a command line."""
    words = line.split(" ")
    complete = ShellComplete(cli, {}, "penstock", "_PENSTOCK_COMPLETE")
    return [item.value for item in complete.get_completions(words[1:-1], words[-1])]


def test_a_shell_completes_ids_sites_queues_and_states(
    api: RunningApi, at: building.Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    live, ended = pilot(api, at), pilot(api, at, "done")
    assert offered(f"penstock pilots list --site {at.name[:4]}") == [at.name]
    assert offered(f"penstock pilots drain --site {at.name} --queue l") == ["local"]
    assert offered(f"penstock pilots submit {at.name}/") == [f"{at.name}/local"]
    assert offered("penstock pilots show ") == [str(ended), str(live)]
    assert offered("penstock pilots kill ") == [str(live)]
    assert offered("penstock pilots list --state re") == ["requested", "removed"]
    monkeypatch.setenv("PENSTOCK_API_URL", "http://127.0.0.1:9")
    assert offered("penstock pilots kill ") == []
    monkeypatch.setenv("PENSTOCK_API_PORT", "nonsense")
    assert offered("penstock pilots list --site ") == []


def test_every_command_of_pilots_is_there() -> None:
    group = cli.get_command(click.Context(cli), "pilots")
    assert isinstance(group, click.Group)
    assert set(group.commands) == {"list", "show", "plan", "log", "submit", "drain", "kill", "program"}


def test_the_pilot_program_is_written_whole_or_not_at_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["pilots", "program", "--to", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    file = tmp_path / "penstock-pilot.pyz"
    assert f"sha256 {hashlib.sha256(file.read_bytes()).hexdigest()}" in told
    said = subprocess.run([sys.executable, str(file), "--version"], capture_output=True, text=True, check=True)
    assert f"version {said.stdout.strip()}," in told
    assert run(["pilots", "program", "--to", str(tmp_path / "no" / "file")]) == 2
    assert "name another place with --to" in capsys.readouterr().err
