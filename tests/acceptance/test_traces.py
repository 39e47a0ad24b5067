"""Traces of a running system: one for each job, from its submission to its end, with every attempt in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.system import FAST, System, ended, penstock_up
from tests.otlp import Received, Receiver, running_receiver
from tests.waiting import eventually

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
JOBS = 2
OFTEN = {"metrics": "* * * * * */1", "traces": "* * * * * */1"}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with running_receiver() as running:
        yield running


def campaign(folder: Path) -> dict[str, Any]:
    """Jobs of which the first fails at its first attempt."""
    payload = f'test "$PENSTOCK_ATTEMPT" != 1 -o {{n}} != 0 || exit 7; touch {folder}/{{n}}'
    step = {
        "name": "s",
        "command": ["/bin/sh", "-c", payload],
        "parameters": {"axes": {"n": {"range": [0, JOBS]}}},
        "requirements": {"memory": 64, "disk": 16, "wall_time": 60},
        "retries": {"payload": 2},
    }
    return {"campaign": "traced", "steps": [step]}


def assert_without_gaps(spans: list[Received], parent: Received) -> None:
    """The children of a span follow one another from its beginning to its end."""
    children = sorted((s for s in spans if s.parent_id == parent.id), key=lambda s: (s.start, s.end))
    if children:
        assert (children[0].start, children[-1].end) == (parent.start, parent.end)
        assert all(one.end == other.start for one, other in pairwise(children))


def test_a_campaign_is_one_trace_a_job_with_its_attempts_linked_to_whoever_submitted(
    receiver: Receiver, tmp_path: Path
) -> None:
    schedules = json.dumps({**json.loads(FAST["PENSTOCK_SCHEDULES"]), **OFTEN})
    traced = {"PENSTOCK_TRACES_URL": receiver.url, "PENSTOCK_TRACES_SHARE": "1", "PENSTOCK_SCHEDULES": schedules}
    with penstock_up(tmp_path / "system", traced | {"TRACEPARENT": CALLER}) as system:
        campaign_id = system.submit(campaign(tmp_path))
        eventually(lambda: ended(system, campaign_id), within=90.0)
        eventually(lambda: len(receiver.traces()) == JOBS, within=60.0)
        views = shown(system)
    traces = receiver.traces()
    assert {view["trace_id"] for view in views} == set(traces)
    for view in views:
        spans = traces[view["trace_id"]]
        (root,) = (span for span in spans if not span.parent_id)
        assert (root.name, root.links, root.error) == ("job", (tuple(CALLER.split("-")[1:3]),), None)
        assert (root.attributes["penstock.job.id"], root.attributes["penstock.job.state"]) == (view["id"], "done")
        for span in spans:
            assert_without_gaps(spans, span)
        states = [span.name for span in spans if span.name not in {"job", "attempt"}]
        assert [*states, "done"] == [event["to_state"] for event in view["events"]]
        attempts = [(span.attributes.get("process.exit.code"), span.error) for span in spans if span.name == "attempt"]
        told = [(attempt["exit_code"], attempt["outcome"]) for attempt in view["attempts"]]
        assert told == [(code, "payload_failed" if error else "succeeded") for code, error in attempts]
    assert sorted(len(view["attempts"]) for view in views) == [1, 2]


def shown(system: System) -> list[dict[str, Any]]:
    """What `penstock jobs show` tells of every job; the line for people is there, too."""
    views = [system.json("jobs", "show", str(job["id"])) for job in system.json("jobs", "list")]
    assert views[0]["trace_id"] in system.run("jobs", "show", str(views[0]["id"]))
    return views
