"""The one thing that code called by a stock RQ worker asks RQ."""

from __future__ import annotations

from rq import get_current_job

from pipeline.errors import BadInput


def current_queue() -> str:
    """The queue of the job that this RQ worker is at. Raises BadInput anywhere else."""
    job = get_current_job()
    if job is None or not job.origin:
        raise BadInput("this is called by RQ workers, on a job of theirs; use `penstock consume QUEUE` instead")
    return job.origin
