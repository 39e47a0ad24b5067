"""The log of a whole campaign, of every process: lines are as the table says, and tell a job's way by its ids."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.log_fields import ECS, LABELS
from tests.acceptance.system import QUEUES, SITES, ended, ledger_campaign, penstock_apart
from tests.servers import RedisServer
from tests.waiting import eventually

JOBS = 3
ABOUT = {
    "job": {"job_id", "job_ids"},
    "jobs": {"job_id", "job_ids", "count"},
    "campaign": {"campaign_id"},
    "step": {"step_id"},
    "pilot": {"pilot_id"},
    "pilots": {"site_queue", "requested"},
    "message": {"message_id"},
    "site": {"site_queue"},
}
"""What a line has of these, about what its event is about, by the event's first word."""


def test_a_job_is_followed_through_all_processes_by_its_ids(tmp_path: Path, redis_server: RedisServer) -> None:
    redis_server.flush()
    variables = {"PENSTOCK_BROKER_URL": redis_server.url, "PENSTOCK_LOG_LEVEL": "debug"}
    with penstock_apart(tmp_path, variables) as system:
        system.apply_sites(SITES)
        campaign_id = system.submit(ledger_campaign(tmp_path, JOBS))
        eventually(lambda: ended(system, campaign_id), within=120)
        job = system.json("jobs", "list", "--campaign", str(campaign_id))[0]
        events = system.json("jobs", "show", str(job["id"]))["events"]
        system.run("jobs", "show", "999999", expect=2)
    lines = [line for log in sorted(tmp_path.glob("*.log")) for line in read(log)]

    assert [wrong for line in lines if (wrong := faults(line))] == []
    assert {line["service.name"] for line in lines} == {"penstock-api", "penstock-consumer", "penstock-triggers"}
    nodes = {line["service.node.name"] for line in lines if "service.node.name" in line}
    assert len(nodes) == 3, "an instance's workers speak in its name"

    mine = [line for line in lines if line["labels"].get("job_id") == job["id"]]
    way = [(line["labels"]["from_state"], line["labels"]["to_state"]) for line in sorted(mine, key=at)]
    assert way == [(event["from_state"], event["to_state"]) for event in events if event["from_state"]]
    assert mine[-1]["event.outcome"] == "success"
    (pilot_id,) = {line["labels"]["pilot_id"] for line in mine if "pilot_id" in line["labels"]}
    assert {line["labels"]["campaign_id"] for line in mine} == {campaign_id}
    (submitted,) = (line for line in lines if line["message"] == "campaign_submitted")
    assert (submitted["labels"]["campaign_id"], submitted["labels"]["jobs"]) == (campaign_id, JOBS)
    assert submitted["user.name"]
    (enrolled,) = (
        line for line in lines if line["message"] == "pilot_enrolled" and line["labels"]["pilot_id"] == pilot_id
    )
    assert enrolled["labels"]["node"]
    (missed,) = (line for line in lines if line.get("url.path") == "/v1/jobs/999999")
    assert (missed["http.response.status_code"], missed["event.outcome"]) == (404, "failure")
    assert missed["event.duration"] > 0
    assert {line["labels"]["queue"] for line in lines if "queue" in line["labels"]} <= {*QUEUES, "api", "triggers"}


def read(log: Path) -> Iterator[dict[str, Any]]:
    """Every line: there is none that is no JSON."""
    for text in log.read_text().splitlines():
        yield json.loads(text)


def at(line: Mapping[str, Any]) -> str:
    return str(line["@timestamp"])


def faults(line: Mapping[str, Any]) -> list[str]:
    """What is not as the tables say."""
    found = [name for name, value in line.items() if not isinstance(value, ECS.get(name, ()))]
    if line["log.logger"].split(".")[0] not in {"uvicorn", "penstock"}:
        found += [name for name, value in line["labels"].items() if not isinstance(value, LABELS.get(name, ()))]
    about = ABOUT.get(line["message"].partition("_")[0])
    if about and not about & line["labels"].keys():
        found.append(f"{line['message']} has none of {about}")
    return [f"{fault} in {line}" for fault in found]
