"""How outputs are named: logically without the attempt, physically with it."""

from __future__ import annotations


def attempt_folder(vo: str, campaign_id: int, step: str, job_id: int, attempt: int) -> str:
    """The folder, relative to a storage's root, that one attempt may write."""
    return f"{vo}/{campaign_id}/{step}/{job_id}/a{attempt}"


def logical_name(vo: str, campaign_id: int, step: str, index: int, name: str) -> str:
    """The catalogue's name of an output, the same for every attempt."""
    return f"/{vo}/{campaign_id}/{step}/{index:06d}/{name}"
