"""What executors count reaches the consumer's metrics, and costs nothing when nothing is counted."""

from __future__ import annotations

import pickle

import pytest
from prometheus_client import REGISTRY

from pipeline.runtime.execution import execute_group
from pipeline.runtime.spec import ConsumerSpec, Context
from pipeline.settings import Settings
from pipeline.store.database import Database
from pipeline.tally import Tally, carry


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_counts_are_added_and_observations_observed_one_by_one() -> None:
    tally = Tally()
    tally.note("reconcile_finds", "StepsDue", value=3)
    tally.note("reconcile_finds", "StepsDue", value=4)
    for seconds in (0.2, 7.0):
        tally.note("match_latency", "SlotsOffered", value=seconds)
    before = value("penstock_match_latency_seconds_count", message="SlotsOffered")
    carry(pickle.loads(pickle.dumps(tally.take())))  # noqa: S301 - as the pool carries it
    assert value("penstock_reconcile_finds_total", message="StepsDue") == 7
    assert value("penstock_match_latency_seconds_count", message="SlotsOffered") == before + 2
    assert value("penstock_match_latency_seconds_bucket", message="SlotsOffered", le="0.25") == before + 1


def test_what_was_taken_is_not_taken_again() -> None:
    tally = Tally()
    tally.note("reconcile_finds", "StepsDue")
    assert len(tally.take()) == 1
    assert tally.take() == ()


def test_a_metric_that_is_not_carried_is_an_error_where_it_is_counted() -> None:
    with pytest.raises(KeyError, match="jobs_of_alice"):
        Tally().note("jobs_of_alice")


def test_a_batch_that_counts_nothing_reports_nothing() -> None:
    context = Context(Settings(), Database("sqlite://"), "test")
    spec = ConsumerSpec("data", (), lambda _context, _messages: [])
    assert execute_group(spec, context, 100, ()).counted == ()
    context.database.close()
