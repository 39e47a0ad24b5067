"""Pilots on nodes with GPUs: each attempt sees its own and no others. The node's tool is a script."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.integration.pilot.conftest import StartPilot
from tests.integration.pilot.scripted_api import Key, ScriptedApi
from tests.waiting import eventually

SEES = 'echo "sees [${CUDA_VISIBLE_DEVICES-all}]"'


@pytest.fixture
def gpu_node(tmp_path: Path) -> dict[str, str]:
    """The PATH of a node with three GPUs."""
    folder = tmp_path / "tools"
    folder.mkdir()
    (folder / "nvidia-smi").write_text("#!/bin/sh\nfor n in 1 2 3; do echo '40536, 8.0, 535.129.03'; done\n")
    (folder / "nvidia-smi").chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def seen(api: ScriptedApi, key: Key) -> str:
    report = api.report_of(key)
    assert report.outcome == "succeeded", report.reason
    return api.archived(key)["stdout.txt"].decode().strip()


def give(api: ScriptedApi, job_id: int, until: Path, **fields: Any) -> Key:
    """A job that says what it sees and stays until a file is there."""
    script = f"{SEES}; touch {until}.{job_id}; while [ ! -e {until} ]; do sleep 0.05; done"
    return api.give(job_id, "/bin/sh", "-c", script, **fields)


def test_attempts_side_by_side_get_gpus_of_their_own(
    api: ScriptedApi, start_pilot: StartPilot, tmp_path: Path, gpu_node: dict[str, str]
) -> None:
    go = tmp_path / "go"
    keys = [give(api, 1, go, gpus=1), give(api, 2, go, gpus=2), give(api, 3, go)]
    start_pilot(**gpu_node)
    eventually(lambda: all(Path(f"{go}.{number}").exists() for number in (1, 2, 3)))
    go.touch()
    first, second, none = (seen(api, key) for key in keys)
    assert none == "sees []"
    given = first[6:-1].split(",") + second[6:-1].split(",")
    assert (len(first), len(second), sorted(given)) == (8, 10, ["0", "1", "2"])
    assert {offer.gpus for offer in api.offers} == {3}


def test_a_gpu_is_given_again_when_its_attempt_has_ended(
    api: ScriptedApi, start_pilot: StartPilot, gpu_node: dict[str, str]
) -> None:
    keys = [api.give(1, "/bin/sh", "-c", SEES, gpus=3)]
    start_pilot(**gpu_node)
    assert seen(api, keys[0]) == "sees [0,1,2]"
    assert seen(api, api.give(2, "/bin/sh", "-c", SEES, gpus=3)) == "sees [0,1,2]"


def test_more_gpus_than_are_free_are_the_nodes_fault(
    api: ScriptedApi, start_pilot: StartPilot, tmp_path: Path, gpu_node: dict[str, str]
) -> None:
    go = tmp_path / "go"
    give(api, 1, go, gpus=2)
    start_pilot("--gpus", "2", **gpu_node)
    eventually(lambda: Path(f"{go}.1").exists())
    report = api.report_of(api.give(2, "true", gpus=1))
    assert (report.outcome, report.reason) == ("infrastructure_failed", "wants 1 GPUs, 0 are free on this node")
    go.touch()
    assert api.offers[0].gpus == 2


def test_a_batch_system_may_have_left_the_pilot_one_gpu(
    api: ScriptedApi, start_pilot: StartPilot, gpu_node: dict[str, str]
) -> None:
    key = api.give(1, "/bin/sh", "-c", SEES, gpus=1, environment={"CUDA_VISIBLE_DEVICES": "0,1,2"})
    start_pilot(CUDA_VISIBLE_DEVICES="2", **gpu_node)
    assert seen(api, key) == "sees [2]"
    (enrolment,) = api.enrolments
    assert enrolment.node.gpus == 1
    assert enrolment.node.details is not None
    assert enrolment.node.details.gpu is not None
    assert enrolment.node.details.gpu.model_dump() == {
        "count": 1,
        "memory": 40536,
        "vendor": "nvidia",
        "compute_capability": "8.0",
        "driver": "535.129.03",
    }


def test_an_api_that_knows_no_gpus_gets_all_else_and_gives_jobs(
    api: ScriptedApi, start_pilot: StartPilot, gpu_node: dict[str, str]
) -> None:
    api.unknown = {"enrol": "details", "offer": "gpus"}
    key = api.give(1, "/bin/sh", "-c", SEES)
    start_pilot(**gpu_node)
    assert seen(api, key) == "sees []"
    assert api.failed_calls == 2
    assert api.enrolments[0].node.details is None
    assert api.enrolments[0].node.glibc
    assert "gpus" not in api.offers[0].model_fields_set


def test_without_gpus_nothing_is_said_of_them(api: ScriptedApi, start_pilot: StartPilot) -> None:
    key = api.give(1, "/bin/sh", "-c", SEES)
    start_pilot("--gpus", "0")
    assert seen(api, key) == "sees [all]"
    assert "gpus" not in api.offers[0].model_fields_set
