"""The pure rules of data checks and upkeep."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executors.data.decide import complaint, is_compared, mismatch, step_outcome
from executors.data.port import Stat
from executors.upkeep.decide import horizon, silence_is_general
from pipeline.store.files import Claim, Output
from pipeline.transport.port import Depth
from schemas.campaign import Retries
from schemas.lifecycle import Losses, after_infrastructure_loss, after_payload_failure
from schemas.outcomes import Backoff
from schemas.states import JobState, StepState

OUTPUT = Output("out.txt", 1, "p/out.txt", 6, "08e70264")


def test_an_output_agrees_when_size_and_checksum_do() -> None:
    claim = Claim(1, 1, "all", (OUTPUT,))
    assert complaint(claim, {(1, "p/out.txt"): Stat(6, "08e70264")}) is None


@pytest.mark.parametrize(
    ("stat", "word"),
    [
        (None, "not on the storage"),
        (Stat(5, None), "5 bytes"),
        (Stat(6, None), "no valid"),
        (Stat(6, "0"), "was reported"),
    ],
)
def test_an_output_that_differs_is_named_with_the_difference(stat: Stat | None, word: str) -> None:
    assert word in (mismatch(6, "08e70264", stat) or "")
    assert "out.txt" in (complaint(Claim(1, 1, "all", (OUTPUT,)), {(1, "p/out.txt"): stat}) or "")


def test_a_sample_compares_one_job_in_ten() -> None:
    assert sum(is_compared(Claim(job_id, 1, "sample", ())) for job_id in range(1000)) == 100


@given(done=st.integers(0, 1000), failed=st.integers(0, 1000), thousandths=st.integers(0, 1000))
def test_a_step_closes_exactly_when_enough_jobs_are_done(done: int, failed: int, thousandths: int) -> None:
    if done + failed:
        outcome = step_outcome({JobState.DONE: done, JobState.FAILED: failed}, thousandths / 1000)
        assert (outcome is StepState.CLOSED) == (done * 1000 >= thousandths * (done + failed))


def test_the_smallest_share_wants_one_job_done() -> None:
    assert step_outcome({JobState.FAILED: 2}, 1e-9) is StepState.BLOCKED


@given(ready=st.none() | st.integers(1), age=st.floats(0, 1e6), wake_after=st.floats(0.1, 1e4))
def test_a_lagging_queue_is_never_published_to_again(ready: int | None, age: float, wake_after: float) -> None:
    judged = horizon(Depth(ready, None, age), wake_after)
    assert judged.next_look >= wake_after
    assert judged.publish == (age < wake_after / 2)


def test_general_silence_needs_many_and_a_large_share() -> None:
    assert not silence_is_general(9, 10, share=0.2, least=10)
    assert not silence_is_general(20, 100, share=0.2, least=10)
    assert silence_is_general(21, 100, share=0.2, least=10)


COOL_OFF = Backoff(base=60, cap=3600)


def test_a_first_infrastructure_loss_costs_no_time() -> None:
    verdict = after_infrastructure_loss(Losses(0, 0, False), Retries(infrastructure=3), COOL_OFF, "gone")
    assert (verdict.to, verdict.wait, verdict.infrastructure) == (JobState.RECEIVED, 0.0, 1)


def test_budgets_are_kept_apart() -> None:
    losses, retries = Losses(3, 0, False), Retries(infrastructure=3, payload=1)
    assert after_infrastructure_loss(losses, retries, COOL_OFF, "gone").to is JobState.FAILED
    assert after_payload_failure(losses, retries, COOL_OFF, "exit 1").to is JobState.RECEIVED


@given(st.integers(0, 9), st.integers(0, 9))
def test_a_job_that_is_to_be_killed_never_comes_back(infrastructure: int, payload: int) -> None:
    losses = Losses(infrastructure, payload, True)
    for rule in (after_infrastructure_loss, after_payload_failure):
        assert rule(losses, Retries(infrastructure=99, payload=99), COOL_OFF, "x").to is JobState.KILLED
