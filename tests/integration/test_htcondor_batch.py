"""What only HTCondor does: schedds that freeze, submissions cut off, evictions, wall times, tokens, its history."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from executors.pilots.port import BATCH_ENDED, BatchState, BatchSystem
from pipeline.errors import BatchSystemUnavailable
from tests.conformance.batch_site import answered, open_kind, requests, shell
from tests.htcondor import HtcondorPool, running_htcondor
from tests.waiting import eventually

SLEEP = "sleep 600"


@pytest.fixture
def notes(htcondor_pool: HtcondorPool) -> Path:
    """A folder that pilots may write to."""
    return htcondor_pool.new_folder()


@pytest.fixture(autouse=True)
def clean(htcondor_pool: HtcondorPool) -> Iterator[None]:
    """Nothing stays in the queue."""
    yield
    htcondor_pool.clear()


def opened(
    pool: HtcondorPool, folder: Path, options: Mapping[str, object] | None = None, **entry: object
) -> BatchSystem:
    return open_kind("htcondor", {**pool.options, "grace": 1, **(options or {})}, folder / "data", **entry)


def attribute(pool: HtcondorPool, tag: str, name: str) -> str:
    return pool.ask("condor_q", "-all", "-constraint", f'PenstockTag == "{tag}"', "-af", name).strip()


def test_a_frozen_schedd_costs_its_timeout_and_leaves_others_and_no_process_behind(
    htcondor_pool: HtcondorPool, tmp_path: Path
) -> None:
    before = set(psutil.Process().children(recursive=True))
    with running_htcondor(cores=2) as other, htcondor_pool.frozen_schedd(), ThreadPoolExecutor(5) as threads:
        frozen = opened(htcondor_pool, tmp_path, {"timeout": 3})
        swift = opened(other, tmp_path)
        tag = "f" * 32
        calls: list[Future[Any]] = [
            threads.submit(frozen.poll, [tag]),
            threads.submit(frozen.submit, requests([tag]), shell("true")),
            threads.submit(frozen.remove, [tag]),
            threads.submit(frozen.fetch_output, [tag]),
        ]
        assert set(swift.submit(requests([tag]), shell("true"))) == {tag}
        assert set(swift.poll([tag])) == {tag}
        for call in calls:
            with pytest.raises(BatchSystemUnavailable, match=r"did not answer within 3 s"):
                call.result()
        keepers = [child for child in psutil.Process().children() if child.pid == other.pid]
        left = set(psutil.Process().children(recursive=True)) - before
        assert left == {*keepers, *(below for keeper in keepers for below in keeper.children(recursive=True))}
    assert list((tmp_path / "data" / "htcondor-calls").iterdir()) == []


ASKER = """
import sys
from pathlib import Path
from tests.conformance.batch_site import requests, shell
from tests.integration.test_htcondor_batch import opened
class Pool:
    options = dict(zip(("schedd", "collector", "token_file"), sys.argv[2:]))
opened(Pool, Path(sys.argv[1])).submit(requests(["e" * 32]), shell("true"))
"""


def test_a_call_ends_with_the_process_that_made_it(htcondor_pool: HtcondorPool, tmp_path: Path) -> None:
    command = [sys.executable, "-c", ASKER, str(tmp_path), *htcondor_pool.options.values()]
    with htcondor_pool.frozen_schedd(), subprocess.Popen(command) as asker:

        def calls() -> list[psutil.Process]:
            below = psutil.Process(asker.pid).children()
            return [child for child in below if "executors.pilots.batch.htcondor_call" in child.cmdline()]

        [call] = eventually(calls)
        asker.send_signal(signal.SIGKILL)
        eventually(lambda: not call.is_running() or call.status() == psutil.STATUS_ZOMBIE, within=5)
    assert opened(htcondor_pool, tmp_path).poll(["e" * 32]) == {}


CUT_OFF = """
import sys, htcondor2
from executors.pilots.batch.htcondor_options import HtcondorOptions, submit_words
from schemas.sites import SiteQueueEntry
schedd, collector, tag = sys.argv[1:]
words = submit_words("SITE.queue", SiteQueueEntry(name="queue"), HtcondorOptions())
pool = htcondor2.Collector(collector)
there = htcondor2.Schedd(pool.locate(htcondor2.DaemonType.Schedd, schedd))
submit = htcondor2.Submit(words | {"executable": "/bin/true"})
there.submit(submit, spool=True, itemdata=iter([{"tag": tag}]))
"""


def test_a_submission_that_was_cut_off_before_its_files_came_is_not_known_and_made_again(
    htcondor_pool: HtcondorPool, tmp_path: Path, notes: Path
) -> None:
    tag = "c" * 32
    tokens = tmp_path / "tokens"
    tokens.mkdir(mode=0o700)
    htcondor_pool.new_token(tokens / "token")
    options = htcondor_pool.options
    subprocess.run(
        [sys.executable, "-c", CUT_OFF, options["schedd"], options["collector"], tag],
        env={"_CONDOR_SEC_TOKEN_DIRECTORY": str(tokens), "_CONDOR_SEC_CLIENT_AUTHENTICATION_METHODS": "IDTOKENS"},
        check=True,
    )
    assert attribute(htcondor_pool, tag, "HoldReasonCode") == "16"
    system = opened(htcondor_pool, tmp_path)
    assert system.poll([tag]) == {}
    assert set(system.submit(requests([tag]), shell(f"echo ran >> {notes}/ran"))) == {tag}
    assert answered(system, [tag], BATCH_ENDED)[tag].state is BatchState.DONE
    assert (notes / "ran").read_text() == "ran\n"
    assert attribute(htcondor_pool, tag, "ClusterId").count("\n") == 0


def test_a_removed_pilot_is_told_before_it_is_killed_and_counts_as_running_until_it_has_ended(
    htcondor_pool: HtcondorPool, tmp_path: Path, notes: Path
) -> None:
    system, tag = opened(htcondor_pool, tmp_path, {"grace": 60}), "4" * 32
    end = f"touch {notes}/told; until [ -e {notes}/go ]; do sleep 0.1; done; exit 0"
    system.submit(requests([tag]), shell(f"trap '{end}' TERM; touch {notes}/ready; while :; do sleep 0.1; done"))
    eventually((notes / "ready").exists, within=60)
    system.remove([tag])
    eventually((notes / "told").exists)
    system.remove([tag])
    assert system.poll([tag])[tag].state is BatchState.RUNNING
    (notes / "go").touch()
    assert "not wanted any more, says Penstock" in answered(system, [tag], BATCH_ENDED)[tag].reason


def test_an_evicted_pilot_has_failed_and_is_never_started_again(
    htcondor_pool: HtcondorPool, tmp_path: Path, notes: Path
) -> None:
    system, tag = opened(htcondor_pool, tmp_path), "a" * 32
    pilot = shell(f"echo ran >> {notes}/ran; {SLEEP}")
    system.submit(requests([tag]), pilot)
    answered(system, [tag], [BatchState.RUNNING])
    eventually((notes / "ran").exists)
    htcondor_pool.ask("condor_vacate_job", "-fast", system.poll([tag])[tag].handle)
    assert answered(system, [tag], BATCH_ENDED)[tag].state is BatchState.FAILED
    system.submit(requests([tag]), pilot)
    assert answered(system, [tag], BATCH_ENDED)[tag].state is BatchState.FAILED
    assert (notes / "ran").read_text() == "ran\n"


def test_a_pilot_past_its_wall_time_has_failed_says_so_and_is_not_released(
    htcondor_pool: HtcondorPool, tmp_path: Path
) -> None:
    system, tag = opened(htcondor_pool, tmp_path, wall_time=2), "b" * 32
    system.submit(requests([tag]), shell(SLEEP))
    assert "its wall time was over" in answered(system, [tag], BATCH_ENDED)[tag].reason
    system.submit(requests([tag]), shell(SLEEP))
    assert system.poll([tag])[tag].state is BatchState.FAILED
    system.remove([tag])
    assert system.poll([tag]) == {}


def test_a_pilot_that_an_administrator_has_thrown_out_is_found_in_the_history(
    htcondor_pool: HtcondorPool, tmp_path: Path
) -> None:
    system, tag = opened(htcondor_pool, tmp_path), "9" * 32
    system.submit(requests([tag]), shell(SLEEP))
    answered(system, [tag], [BatchState.RUNNING])
    htcondor_pool.clear()
    assert answered(system, [tag], BATCH_ENDED)[tag].state is BatchState.FAILED
    assert set(system.poll([*(f"f{number:031}" for number in range(6_000)), tag])) == {tag}
    assert opened(htcondor_pool, tmp_path, {"history": False}).poll([tag]) == {}
    assert set(system.submit(requests([tag]), shell(SLEEP))) == {tag}
    assert attribute(htcondor_pool, tag, "JobStatus") == ""


def test_no_job_attribute_holds_the_secret_and_its_script_is_the_users_alone(
    htcondor_pool: HtcondorPool, tmp_path: Path
) -> None:
    system, tag = opened(htcondor_pool, tmp_path, {"requirements": "NoSuchNode"}), "8" * 32
    system.submit(requests([tag]), shell(SLEEP))
    assert f"secret-of-{tag}" not in htcondor_pool.ask("condor_q", "-all", "-long")
    script = Path(attribute(htcondor_pool, tag, "Iwd")) / "pilot.sh"
    assert f"secret-of-{tag}" in script.read_text()
    assert script.stat().st_mode & 0o077 == 0 or script.parent.stat().st_mode & 0o077 == 0


def test_a_token_that_the_schedd_refuses_or_that_has_ended_is_no_empty_answer(
    htcondor_pool: HtcondorPool, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    htcondor_pool.new_token(token, "-lifetime", "1")
    short = opened(htcondor_pool, tmp_path, {"token_file": str(token)})
    eventually(lambda: int(token.stat().st_mtime) + 2 < time.time())
    with pytest.raises(BatchSystemUnavailable, match="it ended at"):
        short.poll(["7" * 32])
    token.write_text("not.a.token")
    for call in (short.poll, short.remove, short.fetch_output):
        with pytest.raises(BatchSystemUnavailable, match="authenticate"):
            call(["7" * 32])


def test_what_is_wrong_is_said_in_the_words_of_the_server(htcondor_pool: HtcondorPool, tmp_path: Path) -> None:
    tag = "6" * 32
    for options, words in (
        ({"schedd": "nobody@nowhere"}, "knows no schedd nobody@nowhere"),
        ({"collector": "127.0.0.1:1"}, "Connection refused"),
        ({"requirements": "this is ( wrong"}, "Parse error in expression"),
    ):
        system = opened(htcondor_pool, tmp_path, options)
        with pytest.raises(BatchSystemUnavailable, match=words) as refused:
            system.submit(requests([tag]), shell(SLEEP))
        assert "\n" not in str(refused.value)
    assert opened(htcondor_pool, tmp_path).poll([tag]) == {}


def test_a_submission_larger_than_the_schedd_takes_in_one_cluster_is_cut(
    htcondor_pool: HtcondorPool, tmp_path: Path
) -> None:
    tags = [f"5{number:031}" for number in range(7)]
    htcondor_pool.configure(MAX_JOBS_PER_SUBMISSION=3, MAX_JOBS_RUNNING=0)
    try:
        taken = opened(htcondor_pool, tmp_path).submit(requests(tags), shell(SLEEP))
    finally:
        htcondor_pool.configure()
    assert sorted(taken) == tags
    assert len({submission.handle.split(".")[0] for submission in taken.values()}) == 3
