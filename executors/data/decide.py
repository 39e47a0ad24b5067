"""The pure rules of data checks."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from executors.data.port import Stat
from pipeline.store.files import Claim
from schemas.states import JobState, StepState

SAMPLED = 10
"""By the policy `sample`, one job in so many is compared."""

Stats = Mapping[tuple[int, str], Stat | None]


def is_compared(claim: Claim) -> bool:
    """Whether the outputs of this attempt are compared with their storage, by the step's policy."""
    if claim.verify == "sample":
        return claim.job_id % SAMPLED == 0
    return claim.verify == "all"


def mismatch(size: int, adler32: str, stat: Stat | None) -> str | None:
    """Why a file is not as somebody says that it is; None when it is."""
    if stat is None:
        return "is not on the storage"
    if stat.size != size:
        return f"has {stat.size} bytes on the storage, {size} were reported"
    if stat.adler32 is None:
        return "has no valid checksum on the storage: it was changed after it was written"
    if stat.adler32 != adler32:
        return f"has checksum {stat.adler32} on the storage, {adler32} was reported"
    return None


def complaint(claim: Claim, stats: Stats) -> str | None:
    """The first output of an attempt that does not agree with its storage, as a reason; None when all do.

    `stats` is keyed by (storage id, path).
    """
    if not is_compared(claim):
        return None
    for output in claim.outputs:
        why = mismatch(output.size, output.adler32, stats[output.storage_id, output.path])
        if why is not None:
            return f"output {output.name} {why}"
    return None


def step_outcome(counts: Mapping[JobState, int], min_success: float) -> StepState:
    """Where a running step goes whose jobs have all ended: closed, or blocked below its minimum."""
    total = sum(counts.values())
    done = counts.get(JobState.DONE, 0)
    wanted = Fraction(str(min_success)) * total  # 0.95 as it was written, not the float that lies beside it
    return StepState.CLOSED if done >= wanted else StepState.BLOCKED
