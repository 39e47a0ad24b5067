"""Why a job is in its state, in sentences that say what to do where somebody can do something."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from schemas.states import JOB_FINAL, CampaignState, JobState, StepState
from schemas.why_views import QueueWhy


@dataclass(frozen=True, slots=True)
class JobFacts:
    """What is known of a job besides its site queues. `sleeps_until` is when it is looked at again."""

    id: int
    campaign_id: int
    step: str
    state: JobState
    reason: str | None
    campaign_state: CampaignState
    step_state: StepState
    after: tuple[str, ...]
    kill_requested: bool
    dead_letter_id: int | None
    sleeps_until: datetime | None
    site: str | None
    pilot_id: int | None
    last_seen: datetime | None


def reasons(job: JobFacts, queues: Sequence[QueueWhy]) -> Iterator[str]:
    """The weightiest first."""
    if job.kill_requested and job.state not in JOB_FINAL:
        yield "somebody asked to kill it; it ends when its pilot confirms, or is lost"
    if job.dead_letter_id is not None:
        yield (
            f"its message is dead letter {job.dead_letter_id}: an operator decides with `penstock dead show "
            f"{job.dead_letter_id}` and `penstock dead requeue {job.dead_letter_id}`"
        )
    match job.state:
        case JobState.RECEIVED | JobState.STAGING:
            yield from _received(job)
        case JobState.HELD:
            yield job.reason or "no site can run it now"
            yield "it goes on by itself when sites change"
        case JobState.WAITING:
            yield from _waiting(job, queues)
        case JobState.MATCHED:
            yield f"pilot {job.pilot_id} at {job.site} has it and has not confirmed it yet"
        case JobState.RUNNING:
            yield f"pilot {job.pilot_id} at {job.site} runs it: `penstock jobs logs {job.id}`"
        case JobState.STALLED:
            seen = f", last heard of at {job.last_seen:%Y-%m-%d %H:%M:%S} UTC" if job.last_seen else ""
            yield f"pilot {job.pilot_id} at {job.site} is silent{seen}; if it stays so, the job starts again elsewhere"
        case JobState.COMPLETING:
            yield "it has run; its outputs are being compared with their storage"
        case _:
            yield from _over(job)


def _received(job: JobFacts) -> Iterator[str]:
    if job.campaign_state is CampaignState.PAUSED:
        yield f"its campaign is paused; `penstock campaigns resume {job.campaign_id}` lets it go on"
    elif job.step_state is StepState.OPEN:
        yield f"step {job.step} starts when the steps before it have closed: {', '.join(job.after)}"
    elif job.step_state is StepState.BLOCKED:
        yield f"step {job.step} is blocked: `penstock campaigns show {job.campaign_id}` says why"
    elif job.step_state in {StepState.CLOSED, StepState.CANCELLED}:
        yield f"step {job.step} is {job.step_state}"
    elif job.sleeps_until is not None and job.reason:
        yield f"it starts again at about {job.sleeps_until:%Y-%m-%d %H:%M:%S} UTC: {job.reason}"
    else:
        yield "it is about to be looked at by the consumer of the queue `optimisation`; `penstock queues` says how busy"


def _waiting(job: JobFacts, queues: Sequence[QueueWhy]) -> Iterator[str]:
    if job.campaign_state is CampaignState.PAUSED:
        yield f"its campaign is paused; `penstock campaigns resume {job.campaign_id}` lets it go on"
    fitting = [queue for queue in queues if queue.fits]
    open_ = [queue for queue in fitting if not (queue.banned or queue.test_mode)]
    unlimited = [queue for queue in open_ if not queue.full]
    if not fitting:
        yield "no site queue of your VO fits it; see below what each lacks"
    elif not open_:
        yield f"{_names(fitting)} would fit it, but {_are(fitting)} banned or in test mode"
    elif not unlimited:
        full = sorted({limit for queue in open_ for limit in queue.full})
        yield f"limits without room keep it back: {', '.join(full)}"
    elif any(queue.room_for for queue in unlimited):
        roomy = _names([queue for queue in unlimited if queue.room_for])
        yield f"pilots at {roomy} have room for it; it is matched soon"
    elif any(queue.pilots for queue in unlimited):
        yield f"the pilots at {_names([queue for queue in unlimited if queue.pilots])} have no room left for it now"
    else:
        yield from _without_pilots(unlimited)


def _without_pilots(queues: Sequence[QueueWhy]) -> Iterator[str]:
    asked = [queue for queue in queues if queue.max_pilots and not queue.backoff_until]
    failing = [queue for queue in queues if queue.max_pilots and queue.backoff_until]
    if asked:
        yield f"no pilot is at {_names(asked)} yet; what waits makes Penstock ask for some, within a minute"
    elif failing:
        yield f"no pilot is at {_names(failing)}, and none is asked for now: {failing[0].backoff_reason}"
    else:
        yield f"no pilot is at {_names(queues)}, and none will come: the sites file has max_pilots 0 there"


def _over(job: JobFacts) -> Iterator[str]:
    yield job.reason or f"it is {job.state}"
    if job.state is JobState.FAILED:
        yield f"nothing tries it again by itself: `penstock jobs retry {job.id}` does"


def _names(queues: Sequence[QueueWhy]) -> str:
    names = [f"{queue.site}/{queue.queue}" for queue in queues]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _are(queues: Sequence[QueueWhy]) -> str:
    return "is" if len(queues) == 1 else "are"
