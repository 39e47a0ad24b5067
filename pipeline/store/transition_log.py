"""What transitions leave in the log, once they are committed: a line for many that go wrong, and one for each at debug.

Jobs that go their way would write millions of lines a day; who follows one job follows it at debug, or in `job_events`.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from structlog import get_logger

from pipeline.log_fields import FIRST
from pipeline.store.database import Transaction
from schemas.states import JOB_OCCUPYING, JobState

_ALL_IS_WELL = frozenset(
    {
        (JobState.RECEIVED, JobState.STAGING),
        (JobState.RECEIVED, JobState.WAITING),
        (JobState.STAGING, JobState.RECEIVED),
        (JobState.WAITING, JobState.MATCHED),
        (JobState.MATCHED, JobState.RUNNING),
        (JobState.RUNNING, JobState.COMPLETING),
        (JobState.COMPLETING, JobState.DONE),
    }
)
_TROUBLE = frozenset({JobState.FAILED, JobState.STALLED})

_log = get_logger("jobs")
_level = logging.getLogger("jobs")

Moved = tuple[int, JobState, JobState, str]
"""A job's id, the states before and after, the reason."""


def tell_moved(tx: Transaction, moved: Iterable[Moved]) -> None:
    """One line for those that go the same way for the same reason; not for those with whom all is well."""
    if not _level.isEnabledFor(logging.INFO):
        return
    alike: defaultdict[tuple[JobState, JobState, str], list[int]] = defaultdict(list)
    for job_id, before, to, reason in moved:
        if (before, to) not in _ALL_IS_WELL:
            alike[before, to, reason].append(job_id)
    for (before, to, reason), ids in alike.items():
        lost = before in JOB_OCCUPYING and to is JobState.RECEIVED
        tx.tell(
            _log.warning if lost or to in _TROUBLE else _log.info,
            f"jobs_{to}",
            job_ids=ids[:FIRST],
            count=len(ids),
            from_state=before.value,
            to_state=to.value,
            reason=reason or None,
        )


def tells_each() -> bool:
    """Whether a line for each transition is wanted."""
    return _level.isEnabledFor(logging.DEBUG)


def tell_each(tx: Transaction, lines: Sequence[Mapping[str, Any]]) -> None:
    """A line for each, `to_state` among what it says."""
    for line in lines:
        tx.tell(_log.debug, f"job_{line['to_state']}", **line)
