"""What `penstock jobs show` and `penstock jobs logs` tell of a job that was lost, failed, and was done in the end."""

from __future__ import annotations

import io
import json
import tarfile
from functools import partial

import pytest

from pipeline.cli.main import run
from pipeline.store.pilots import Ending, end
from schemas.pilots import Report
from schemas.states import JobState, PilotState
from tests import building
from tests.api_server import RunningApi
from tests.pilot_rows import RULES, Scene, match
from tests.submitting import all_jobs, submit, user
from tests.vo_pilots import place, store_output

pytestmark = pytest.mark.usefixtures("as_operator")
NODE = {"host": "wn1", "cores": 4}
WRITTEN = {1: ("first\n", "broken\n"), 2: ("second\n", "")}


@pytest.fixture
def job_id(api: RunningApi) -> int:
    """A job whose first attempt failed by itself, whose second was lost with its pilot, and whose third succeeded."""
    site = place(api)
    retries = {"payload": 1, "infrastructure": 1}
    submitted = submit(api.database, {"name": "s", "retries": retries}, owner=user(api.database, api.vo, "alice"))
    for attempt, fate in enumerate(("failed", "lost", "done"), start=1):
        pilot_id = building.pilot(api.database, site, vo=api.vo, node=json.dumps(NODE))
        scene = Scene(api.database, site, pilot_id, submitted.campaign_id)
        match(api.database, all_jobs(api.database, submitted.campaign_id), site, pilot_id)
        scene.start()
        (ref,) = scene.refs()
        if fate == "lost":
            ending = Ending(PilotState.FAILED, "removed by its batch system")
            api.database.transact(partial(end, pilot_id=pilot_id, ending=ending, rules=RULES))
        else:
            outcome, code = ("payload_failed", 3) if fate == "failed" else ("succeeded", 0)
            word = Report(**ref.model_dump(), outcome=outcome, exit_code=code, wall_time=2.0, cpu_time=1.0, memory=7)
            scene.report(word)
        store_output(api, pilot_id, f"pilot of attempt {attempt}\n", "")
    scene.move(JobState.DONE)
    for attempt, (stdout, stderr) in WRITTEN.items():
        api.services.sandboxes.put_archive(api.vo, ref.job_id, attempt, archive(stdout, stderr))
    return ref.job_id


def archive(stdout: str, stderr: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as made:
        for name, text in (("stdout.txt", stdout), ("stderr.txt", stderr)):
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            made.addfile(entry, io.BytesIO(text.encode()))
    return stream.getvalue()


def test_show_tells_it_in_order_with_places_and_reasons(job_id: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["jobs", "show", str(job_id), "--json"]) == 0
    story = json.loads(capsys.readouterr().out)["story"]
    states = "received waiting matched running received waiting matched running received waiting matched running"
    assert [line["state"] for line in story] == [*states.split(), "completing", "done"]
    assert story[0]["text"] == "submitted by alice"
    assert "payload_failed, exit code 3 after 2.0 s" in story[4]["text"]
    assert "removed by its batch system" in story[8]["text"]
    assert "succeeded, exit code 0" in story[12]["text"]
    assert {line["node"] for line in story if line["state"] in {"matched", "running", "completing"}} == {"wn1"}
    assert len({line["pilot_id"] for line in story} - {None}) == 3
    assert [line["seconds"] is None for line in story] == [False] * 13 + [True]
    assert run(["jobs", "show", str(job_id)]) == 0
    shown = capsys.readouterr().out
    assert "submitted by alice" in shown
    assert f"what it wrote: penstock jobs logs {job_id} --all" in shown


def test_logs_are_those_of_each_attempt_and_of_their_pilots(job_id: int, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*options: str) -> tuple[str, str]:
        assert run(["jobs", "logs", str(job_id), *options]) == 0
        return capsys.readouterr()

    assert said() == ("second\n", "")
    assert said("--attempt", "1") == ("first\n", "broken\n")
    out, err = said("--all")
    assert out == "first\nsecond\n"
    heads = [line for line in err.splitlines() if line.startswith("==")]
    assert [head.partition(",")[0] for head in heads] == ["== attempt 1", "== attempt 2", "== attempt 3"]
    assert heads[0].endswith("payload_failed, exit code 3")
    assert heads[1].endswith("its pilot reported no end")
    assert f"attempt 3 at job {job_id} has written nothing yet" in err
    assert said("--all", "--pilot")[0].endswith("".join(f"pilot of attempt {n}\n" for n in (1, 2, 3)))
    told = json.loads(said("--all", "--pilot", "--json")[0])
    assert [one["source"] for one in told["attempts"]] == ["archive", "archive", "none"]
    assert [one["stdout"] for one in told["pilots"]] == [f"pilot of attempt {n}\n" for n in (1, 2, 3)]


def test_an_attempt_that_there_was_not_is_refused(job_id: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["jobs", "logs", str(job_id), "--attempt", "4"]) == 2
    assert "there were 3 so far" in capsys.readouterr().err
    assert run(["jobs", "logs", str(job_id), "--attempt", "1", "--all"]) == 2
