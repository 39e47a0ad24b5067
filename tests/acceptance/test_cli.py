"""The command line as users and operators meet it: bad input, the API's commands, the direct ones."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
import pytest

from pipeline.log_fields import ECS
from pipeline.store.database import Database
from pipeline.store.messages import Burial, bury
from schemas.api import Role
from schemas.messages import FilesDue, Message
from tests.acceptance.commands import CommandLine
from tests.api_server import RunningApi, running_api
from tests.servers import RedisServer

JOB = "campaign: test\nsteps:\n  - name: one\n    command: ['true']\n"
PROCESSES = {"api": ["api"], "consumer": ["consume", "upkeep"], "triggers": ["triggers"]}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    with running_api(tmp_path_factory.mktemp("api")) as running:
        yield running


@pytest.fixture
def user(tmp_path: Path, api: RunningApi) -> CommandLine:
    """A user of the API in a VO of their own; what they have is on their own machine."""
    own = api.in_new_vo()
    settings = {"PENSTOCK_API_URL": api.url, "PENSTOCK_TOKEN": own.token(Role.OPERATOR)}
    return CommandLine(tmp_path / "data", settings)


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database file with the schema, for tests to copy."""
    folder = tmp_path_factory.mktemp("migrated")
    CommandLine(folder).said("db", "upgrade")
    return folder / "penstock.db"


@pytest.fixture
def operator(tmp_path: Path, redis_server: RedisServer, migrated: Path) -> CommandLine:
    """An operator beside the database and the broker, with no API running."""
    redis_server.flush()
    made = CommandLine(tmp_path / "data", {"PENSTOCK_BROKER_URL": redis_server.url})
    made.data_dir.mkdir()
    shutil.copyfile(migrated, made.data_dir / "penstock.db")
    return made


@pytest.fixture
def bury_files(operator: CommandLine) -> None:
    """Two dead letters that can be read and one that can't."""
    database = Database(f"sqlite:///{operator.data_dir / 'penstock.db'}")
    messages = [Message.about(FilesDue(file_ids=(number,)), now=database.now()) for number in (1, 2)]
    burials = [
        Burial("data", str(one.id), "FilesDue", one.encode(), "boom", 5, "Traceback: here", one) for one in messages
    ]
    burials.append(Burial("data", "unknown", "garbage", b"\xff", "it can't be read", 1))
    database.transact(lambda tx: bury(tx, burials))
    database.close()


def job_file(folder: Path, text: str) -> str:
    path = folder / "job.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("- no\n- mapping\n", "it must be a mapping of fields, not a list"),
        (JOB + "    colour: red\n", "steps.0.colour: unknown field"),
        (JOB + "    after: [one]\n", "`after` goes in a circle: one -> one"),
        (JOB + "    sandbox: [gone.py]\n", "steps.0.sandbox: there is no file"),
        (JOB + "    outputs: ['{nothing}']\n", "unknown parameter {nothing}"),
        ("campaign: [", "it is no YAML"),
    ],
)
def test_a_bad_job_file_is_refused_in_one_line_and_nothing_is_stored(
    user: CommandLine, tmp_path: Path, text: str, reason: str
) -> None:
    path = job_file(tmp_path, text)
    complaint = user.complaint("submit", path)
    assert complaint.startswith(f"{path}: ")
    assert reason in complaint
    assert json.loads(user.said("campaigns", "list", "--json")) == []


def test_a_missing_job_file_is_refused(user: CommandLine, tmp_path: Path) -> None:
    assert "No such file" in user.complaint("submit", str(tmp_path / "gone.yaml"))


def test_a_wrong_token_is_refused(user: CommandLine, tmp_path: Path) -> None:
    user.settings["PENSTOCK_TOKEN"] = "pst_wrong"
    assert "the token is not known" in user.complaint("submit", job_file(tmp_path, JOB))


def test_a_wrong_setting_is_named(user: CommandLine) -> None:
    user.settings["PENSTOCK_API_PORT"] = "many"
    assert user.complaint("jobs", "list").startswith("PENSTOCK_API_PORT: ")


def test_an_api_that_is_down_is_a_failure_and_no_bad_input(user: CommandLine) -> None:
    user.settings["PENSTOCK_API_URL"] = "http://127.0.0.1:1"
    assert "can't be reached" in user.complaint("jobs", "list", code=1)


def test_a_traceback_is_shown_on_demand(user: CommandLine, tmp_path: Path) -> None:
    done = user.run("--debug", "submit", job_file(tmp_path, "[]"))
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("penstock: ")


def test_a_campaign_is_submitted_shown_paused_and_cancelled(user: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "run.py").write_text("print(1)\n")
    text = JOB + "    sandbox: [run.py]\n    parameters: {axes: {n: {range: [0, 3]}}}\n"
    submitted = json.loads(user.said("submit", job_file(tmp_path, text), "--json"))
    assert submitted["jobs"] == 3
    number = str(submitted["campaign_id"])
    assert json.loads(user.said("campaigns", "show", number, "--json"))["steps"][0]["name"] == "one"
    assert user.said("campaigns", "pause", number) == f"campaign {number}: paused\n"
    assert user.said("campaigns", "resume", number) == f"campaign {number}: running\n"
    jobs = json.loads(user.said("jobs", "list", "--campaign", number, "--json"))
    assert [job["index"] for job in jobs] == [0, 1, 2]
    assert json.loads(user.said("jobs", "show", str(jobs[0]["id"]), "--json"))["events"][0]["to_state"] == "received"
    assert user.said("jobs", "kill", str(jobs[0]["id"])) == "1 job changed\n"
    assert user.said("campaigns", "cancel", number).startswith(f"campaign {number}: cancelled, 2 jobs changed")


def test_every_listing_of_the_api_is_json_on_demand(user: CommandLine) -> None:
    for words in (("campaigns",), ("jobs",), ("files",), ("pilots",), ("tokens",)):
        assert isinstance(json.loads(user.said(*words, "list", "--json")), list)
    assert set(json.loads(user.said("sites", "list", "--json"))) == {"sites", "storages", "bans", "pilot_caps"}


def test_sites_are_applied_banned_and_allowed(user: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "sites.yaml"
    path.write_text(
        "storages: [{name: disk, url: 'file:///tmp'}]\nsites: [{name: A, storages: [disk], queues: [{name: short}]}]\n"
    )
    assert "+ queue A/short" in user.said("sites", "apply", str(path), "--dry-run")
    assert "+ queue A/short" in user.said("sites", "apply", str(path))
    assert user.said("sites", "apply", str(path)) == "nothing changes\n"
    assert "A/short" in user.said("sites", "ban", "A", "--queue", "short", "--reason", "cooling", "--until", "2h")
    assert "banned" in user.said("sites", "list")
    assert "lifted" in user.said("sites", "allow", "A")
    tested = user.said("sites", "test", "A", "--reason", "new storage", "--until", "2h", "--job-type", "probe")
    assert "only jobs of the type probe" in tested
    assert all(word in user.said("sites", "list") for word in ("test mode", "probe", "new storage"))
    assert "test mode" in user.said("sites", "allow", "A")
    assert "is past" in user.complaint("sites", "ban", "A", "--reason", "x", "--until", "2020-01-01")
    assert "there is no site 'B'" in user.complaint("sites", "ban", "B", "--reason", "x").replace('"', "'")


def test_tokens_are_made_listed_and_revoked(user: CommandLine) -> None:
    token = user.said("tokens", "create", "alice", "--expires-in", "1d").strip()
    listed = json.loads(user.said("tokens", "list", "--json"))
    (mine,) = [one for one in listed if one["subject"] == "alice"]
    user.said("tokens", "revoke", str(mine["id"]))
    user.settings["PENSTOCK_TOKEN"] = token
    assert "was revoked" in user.complaint("jobs", "list")


def test_an_older_schema_is_refused_with_what_mends_it(tmp_path: Path, redis_server: RedisServer) -> None:
    line = CommandLine(tmp_path, {"PENSTOCK_BROKER_URL": redis_server.url})
    sqlite3.connect(tmp_path / "penstock.db").close()
    said = [line.complaint(*command) for command in (["queues"], ["db", "check"])]
    said += [line.refusal(*command)["error.message"] for command in PROCESSES.values()]
    assert [words for words in said if not words.endswith("has no Penstock schema; run `penstock db upgrade`")] == []


def test_a_brokers_url_that_is_wrong_is_one_line_from_every_process(operator: CommandLine) -> None:
    operator.settings["PENSTOCK_BROKER_URL"] = "ampq://ann:s3cret@broker"
    said = [operator.complaint("queues")]
    said += [operator.refusal(*command)["error.message"] for command in PROCESSES.values()]
    for complaint in said:
        assert "PENSTOCK_BROKER_URL: no transport serves 'ampq'" in complaint
        assert "s3cret" not in complaint


@pytest.mark.parametrize("kind", PROCESSES)
def test_a_process_that_does_not_start_says_why_in_a_line_of_its_log(operator: CommandLine, kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        wrong = {"PENSTOCK_API_PORT" if kind == "api" else "PENSTOCK_HEALTH_PORT": port, "PENSTOCK_LOG_LEVEL": "loud"}
        for variable, value in wrong.items():
            said = replace(operator, settings=operator.settings | {variable: value}).refusal(*PROCESSES[kind])
            assert said["error.message"].startswith(f"{variable}: ")
            assert (said["error.type"], said["service.name"]) == ("BadSettings", f"penstock-{kind}")
            assert said["@timestamp"].endswith("Z")
            assert [name for name, value in said.items() if not isinstance(value, ECS[name])] == []


def test_a_database_that_is_away_is_a_failure_of_the_process(operator: CommandLine) -> None:
    operator.settings["PENSTOCK_DATABASE_URL"] = "mysql+mysqldb://ann:s3cret@127.0.0.1:1/penstock"
    done = operator.run("consume", "upkeep")
    *tries, said = (json.loads(line) for line in done.stderr.splitlines())
    assert {one["message"] for one in tries} == {"transaction_retried"}
    assert (done.returncode, said["message"], said["error.type"]) == (1, "process_refused", "DatabaseUnavailable")
    assert "s3cret" not in done.stderr


def test_a_process_that_is_mistyped_says_so_in_a_line_of_its_log(operator: CommandLine) -> None:
    assert operator.refusal("consume")["error.message"].endswith("See `penstock consume --help`.")
    assert "there is no queue 'nowhere'" in operator.refusal("consume", "nowhere")["error.message"]


def test_a_traceback_that_is_wanted_stands_in_the_line(operator: CommandLine) -> None:
    said = operator.refusal("--debug", "consume", "nowhere")
    assert said["error.stack_trace"].splitlines()[-1].endswith(said["error.message"])


def test_a_terminal_is_told_in_words(operator: CommandLine) -> None:
    ours, its = os.openpty()
    command = [sys.executable, "-m", "pipeline.cli", "consume", "nowhere"]
    assert subprocess.run(command, env=operator.environment, stderr=its, timeout=60, check=False).returncode == 2
    os.close(its)
    said = click.unstyle(os.read(ours, 10_000).decode())
    os.close(ours)
    assert said.startswith("penstock: there is no queue 'nowhere'")


def test_a_message_over_a_mebibyte_is_refused(operator: CommandLine, tmp_path: Path) -> None:
    body = tmp_path / "body.json"
    body.write_text(json.dumps({"job_ids": [10**12] * 100_000}))
    refused = operator.complaint("enqueue", "optimisation", "JobsReceived", "--body", f"@{body}")
    assert refused.endswith("over the limit of 1048576 for a message; name fewer ids")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nowhere", "Tick"], "there is no queue 'nowhere'"),
        (["data", "JobsReceived", "--ids", "1"], "the queue data takes no 'JobsReceived'; it takes FilesDue"),
        (["data", "FilesDue"], "Give either --ids or --body."),
        (["data", "FilesDue", "--body", '{"file_ids": [0]}'], "--body: file_ids.0: Input should be greater than 0"),
        (["data", "FilesDue", "--body", '{"files": [1]}'], "--body: files: unknown field"),
        (["data", "FilesDue", "--body", "{"], "--body: Invalid JSON"),
        (["data", "FilesDue", "--body", "@gone"], "--body: gone: No such file"),
        (["upkeep", "Tick", "--ids", "1"], "Tick names no ids; give its --body as JSON"),
    ],
)
def test_a_bad_message_is_refused_in_one_line(operator: CommandLine, arguments: list[str], reason: str) -> None:
    assert reason in operator.complaint("enqueue", *arguments)


def test_a_message_published_by_hand_shows_in_its_queue(operator: CommandLine) -> None:
    ids = ",".join(map(str, range(1, 1502)))
    assert len(operator.said("enqueue", "data", "FilesDue", "--ids", ids).splitlines()) == 2
    operator.said("enqueue", "data", "StepsDue", "--body", "-", stdin='{"step_ids": [1]}')
    (data,) = [one for one in json.loads(operator.said("queues", "--json")) if one["queue"] == "data"]
    assert (data["ready"], data["in_flight"], data["consumers"]) == (3, 0, 0)
    assert data["oldest_age"] < 600


def test_queues_are_paused_and_resumed(operator: CommandLine) -> None:
    operator.said("pause", "data")
    assert "pause" in operator.said("queues")
    assert operator.said("resume", "data") == "data: resumed\n"
    assert operator.said("resume", "data") == "data: was not paused\n"
    assert "there is no instance 'nobody'" in operator.complaint("drain", "nobody")


def test_dead_letters_are_listed_requeued_and_dropped(operator: CommandLine, bury_files: None) -> None:
    del bury_files
    listed = json.loads(operator.said("dead", "list", "--queue", "data", "--json"))
    assert [one["type"] for one in listed] == ["garbage", "FilesDue", "FilesDue"]
    assert json.loads(operator.said("dead", "list", "--since", "1h", "--reason", "boom", "--json")) == listed[1:]
    shown = operator.said("dead", "show", str(listed[1]["id"]))
    assert "boom" in shown
    assert "Traceback" in shown
    assert "there is no dead letter 99" in operator.complaint("dead", "requeue", "99")
    assert "can't be read" in operator.complaint("dead", "requeue", str(listed[0]["id"]))
    assert operator.said("dead", "requeue", "--all") == "2 requeued\n"
    assert "1" in operator.said("dead", "drop", "--queue", "data")
    assert json.loads(operator.said("dead", "list", "--json")) == []
    (data,) = [one for one in json.loads(operator.said("queues", "--json")) if one["queue"] == "data"]
    assert data["ready"] == 2


def test_a_trigger_is_listed_and_its_tick_published(operator: CommandLine) -> None:
    assert operator.said("trigger", "run", "reconcile") == "reconcile: published\n"
    listed = {one["name"]: one for one in json.loads(operator.said("trigger", "list", "--json"))}
    assert listed["reconcile"]["last_claimed"] is not None
    (upkeep,) = [one for one in json.loads(operator.said("queues", "--json")) if one["queue"] == "upkeep"]
    assert upkeep["ready"] == 1
    assert "there is no trigger 'nothing'" in operator.complaint("trigger", "run", "nothing")


def test_the_doctor_finds_a_healthy_installation_healthy(operator: CommandLine) -> None:
    findings = json.loads(operator.said("doctor", "--json"))
    assert [one["check"] for one in findings] == ["settings", "database", "schema", "clock", "broker"]
    assert all(one["ok"] for one in findings)
    assert json.loads(operator.said("instances", "--json")) == []


def test_the_doctor_says_what_mends_a_sick_one(tmp_path: Path) -> None:
    line = CommandLine(tmp_path / "data")
    done = line.run("doctor")
    assert done.returncode == 1
    found = {row.split()[1]: row for row in done.stdout.splitlines()}
    assert found["settings"].startswith("ok")
    assert "run `penstock up` or `penstock db upgrade`" in found["schema"]
    assert "start `penstock up`, or set PENSTOCK_BROKER_URL" in found["broker"]
    assert not (tmp_path / "data").exists(), "looking changed something"


def test_the_doctor_names_a_wrong_setting(tmp_path: Path) -> None:
    done = CommandLine(tmp_path, {"PENSTOCK_SANDBOX_LIMIT": "0"}).run("doctor")
    assert done.returncode == 1
    assert "PENSTOCK_SANDBOX_LIMIT" in done.stdout


def test_the_first_token_of_an_installation_comes_from_the_database(operator: CommandLine) -> None:
    assert operator.said("tokens", "bootstrap", "--vo", "cms").startswith("pst_")
    assert "is no name of a VO" in operator.complaint("tokens", "bootstrap", "--vo", "a b")
