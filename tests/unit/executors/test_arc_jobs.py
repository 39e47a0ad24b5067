"""Pilots among an element's jobs, as releases describe these that are none of our servers."""

from __future__ import annotations

import json
import threading

import httpx

from executors.pilots.batch.arc_jobs import find_jobs
from executors.pilots.batch.arc_options import ArcOptions
from executors.pilots.batch.arc_rest import ArcRest

OPTIONS = ArcOptions(url="https://ce.example.org/arex")


def test_names_that_documents_do_not_say_are_read_from_the_jobs_own_notes_side_by_side() -> None:
    together = threading.Barrier(4, timeout=30)

    def serve(request: httpx.Request) -> httpx.Response:
        path, action = request.url.path, request.url.params.get("action")
        if path.endswith("/diagnose/local"):
            together.wait()
            job_id = path.split("/")[-3]
            return httpx.Response(200, text=f"queue=long\njobname=penstock-tag{job_id}\n")
        ids = [one["id"] for one in json.loads(request.content)["job"]] if action == "info" else list("01234567")
        document = {"ComputingActivity": {"State": ["arcrest:RUNNING"]}}
        jobs = [{"id": one, "status-code": "200", "state": "RUNNING", "info_document": document} for one in ids]
        return httpx.Response(200, json={"job": jobs})

    with httpx.Client(transport=httpx.MockTransport(serve)) as client:
        found = find_jobs(ArcRest("SITE.queue", OPTIONS, client), ["tag2", "tag7", "tag9"])
    assert {tag: [(job.id, job.state) for job in jobs] for tag, jobs in found.items()} == {
        "tag2": [("2", "RUNNING")],
        "tag7": [("7", "RUNNING")],
    }
