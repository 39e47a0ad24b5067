"""What HTCondor's job attributes mean for a pilot, and the words that a job is submitted with."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from executors.pilots.batch.htcondor import HtcondorBatchSystem, answer
from executors.pilots.batch.htcondor_options import HtcondorOptions, submit_words
from executors.pilots.port import BatchAnswer, BatchState, QueueSettings
from pipeline.errors import BadSettings
from schemas.sites import SiteQueueEntry

ENTRY: dict[str, Any] = {"name": "queue", "batch_system": "htcondor", "cores": 4, "memory": 8_000, "disk": 1_000}


def said(status: int, **attributes: object) -> BatchAnswer:
    return answer({"ClusterId": 7, "ProcId": 3, "JobStatus": status, **attributes})


def opened(options: Mapping[str, object], **entry: object) -> HtcondorBatchSystem:
    queue = SiteQueueEntry.model_validate({**ENTRY, "options": options, **entry})
    return HtcondorBatchSystem(QueueSettings("SITE.queue", queue, Path("/nowhere")))


def words(options: Mapping[str, object], **entry: object) -> dict[str, str]:
    queue = SiteQueueEntry.model_validate({**ENTRY, **entry})
    return submit_words("SITE.queue", queue, HtcondorOptions.model_validate(options))


@pytest.mark.parametrize(
    ("status", "attributes", "state", "reason"),
    [
        (1, {}, BatchState.QUEUED, ""),
        (1, {"NumJobStarts": 1, "PenstockStarts": 0}, BatchState.FAILED, "evicted by its worker node"),
        (1, {"NumJobStarts": 1, "PenstockStarts": 1}, BatchState.QUEUED, ""),
        (2, {"RemoteHost": "slot1@node"}, BatchState.RUNNING, ""),
        (6, {"RemoteHost": "slot1@node"}, BatchState.RUNNING, ""),
        (7, {"RemoteHost": "slot1@node"}, BatchState.RUNNING, ""),
        (3, {"RemoteHost": "slot1@node", "RemoveReason": "unwanted"}, BatchState.RUNNING, "removed: unwanted"),
        (3, {"RemoveReason": "unwanted"}, BatchState.FAILED, "removed: unwanted"),
        (4, {"ExitBySignal": True, "ExitSignal": 9}, BatchState.FAILED, "ended by signal 9"),
    ],
)
def test_a_pilot_counts_as_running_until_its_node_has_let_it_go(
    status: int, attributes: Mapping[str, object], state: BatchState, reason: str
) -> None:
    assert said(status, **attributes) == BatchAnswer("7.3", state, None, reason)


def test_an_exit_code_tells_done_from_failed() -> None:
    assert said(4, ExitCode=0, ExitBySignal=False) == BatchAnswer("7.3", BatchState.DONE, 0, "exit code 0")
    assert said(4, ExitCode=3) == BatchAnswer("7.3", BatchState.FAILED, 3, "exit code 3")


def test_a_hold_says_its_reason_and_what_its_code_means() -> None:
    held = said(5, HoldReason="Transfer input files failure", HoldReasonCode=13, HoldReasonSubCode=2)
    assert held.state is BatchState.HELD
    assert held.reason == ("Transfer input files failure (hold code 13: the input could not be transferred, subcode 2)")
    assert said(5, HoldReason="odd", HoldReasonCode=99).reason == "odd (hold code 99)"


@pytest.mark.parametrize("code", [12, 33, 34, 46, 47])
def test_a_pilot_that_is_held_after_it_has_run_has_failed(code: int) -> None:
    assert said(5, HoldReason="so", HoldReasonCode=code).state is BatchState.FAILED


def test_a_job_asks_for_what_its_pilot_is_said_to_have() -> None:
    asked = words({"grace": 30}, wall_time=7_200, gpu={"count": 2, "memory": 40_000, "compute_capability": "8.0"})
    assert (asked["request_cpus"], asked["request_memory"], asked["request_disk"]) == ("4", "8000", "1024000")
    assert (asked["allowed_job_duration"], asked["job_max_vacate_time"]) == ("7200", "30")
    assert (asked["request_gpus"], asked["gpus_minimum_memory"], asked["gpus_minimum_capability"]) == (
        "2",
        "40000",
        "8.0",
    )
    assert asked["arguments"] == "$(tag)"
    assert asked["My.PenstockTag"] == '"$(tag)"'


def test_nodes_are_those_of_the_queue_and_not_like_this_machine() -> None:
    assert "TARGET.Arch isnt undefined" in words({})["requirements"]
    wanted = words({"requirements": "HasCvmfs || OnSite"}, architecture={"name": "x86_64"})["requirements"]
    assert 'TARGET.Arch == "X86_64" && (HasCvmfs || OnSite)' in wanted
    assert 'TARGET.Arch == "aarch64"' in words({}, architecture={"name": "aarch64"})["requirements"]


def test_more_words_of_the_submit_description_are_passed_on_and_win() -> None:
    asked = words({"submit": {"accounting_group": "grid", "request_disk": "1"}, "grid_resource": "condor a b"})
    assert (asked["accounting_group"], asked["request_disk"]) == ("grid", "1")
    assert (asked["universe"], asked["grid_resource"]) == ("grid", "condor a b")


@pytest.mark.parametrize(
    ("options", "entry", "complaint"),
    [
        ({}, {"nodes": 2}, "no jobs of several nodes; set nodes to 1, not 2"),
        ({"shcedd": "a"}, {}, "options of the batch system htcondor: shcedd"),
        ({"address": "host:9618", "schedd": "a"}, {}, "address excludes schedd and collector"),
        ({"submit": {"Executable": "/bin/sh"}}, {}, "must not say Executable"),
        ({"proxy_file": "/proxy.pem"}, {}, "HTCondor takes tokens"),
        ({"timeout": 0}, {}, "timeout"),
    ],
)
def test_options_that_make_no_sense_are_refused_in_one_line(
    options: Mapping[str, object], entry: Mapping[str, object], complaint: str
) -> None:
    with pytest.raises(BadSettings, match=complaint) as refused:
        opened(options, **entry)
    assert "queue SITE.queue" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_installation_without_the_bindings_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "htcondor2", None)
    with pytest.raises(BadSettings, match=r"pip install 'penstock\[htcondor\]'"):
        opened({})
