"""Prometheus scrapes a running system: all that dashboards and alerts name is there, and a stopped consumer is told."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.system import FAST, System, ended, ledger_campaign, penstock_apart
from tests.documentation import ROOT
from tests.prometheus import Prometheus, running_prometheus
from tests.rabbitmq import RabbitMqServer
from tests.servers import MariaDbServer
from tests.waiting import eventually

RULES = ROOT / "deploy" / "prometheus" / "rules" / "penstock.yml"
DASHBOARDS = sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))
SCHEDULES = json.dumps({**json.loads(FAST["PENSTOCK_SCHEDULES"]), "metrics": "* * * * * */1"})
JOBS = 6
HAVE_SAMPLES = (
    "penstock_queue_ready", "penstock_queue_in_flight", "penstock_deferred_messages", "penstock_dead_letters_kept",
    "penstock_batch_messages_count", "penstock_batch_seconds_count", "penstock_messages_total",
    "penstock_job_transitions_total", "penstock_jobs", "penstock_used_core_seconds_total", "penstock_pilots",
    "penstock_match_latency_seconds_count", "penstock_trigger_lag_seconds", "penstock_database_retries_total",
    "penstock_instances", "penstock_queue_workers_wanted", "penstock_queue_consumers", "penstock_database_up",
    "penstock_broker_up", "penstock_live", "penstock_count_age_seconds", "penstock_silent_pilots",
    "penstock_rescheduling_paused", "penstock_site_queue_failures", "penstock_http_requests_total",
    "penstock_campaigns", "penstock_job_ends_total",
)  # fmt: skip
"""Told by a system in which nothing went wrong, at least for a while; others have names until something does."""


@pytest.fixture
def system(mariadb_server: MariaDbServer, rabbitmq_server: RabbitMqServer, tmp_path: Path) -> Iterator[System]:
    vhost, database = rabbitmq_server.new_vhost(), mariadb_server.new_database()
    broker = f"{rabbitmq_server.amqp_url_of(vhost)}?management={rabbitmq_server.management_url}"
    variables = {
        "PENSTOCK_DATABASE_URL": database,
        "PENSTOCK_BROKER_URL": broker,
        "PENSTOCK_SCHEDULES": SCHEDULES,
    }
    with penstock_apart(tmp_path, variables) as running:
        running.apply_sites()
        yield running
    mariadb_server.drop_database(database)
    rabbitmq_server.drop_vhost(vhost)


@pytest.fixture
def prometheus(system: System, tmp_path: Path) -> Iterator[Prometheus]:
    """With the alerts as they are deployed, but for how long they wait: minutes are seconds."""
    rules = re.sub(r"(\d+)[mh]\b", r"\1s", RULES.read_text())
    rules = rules.replace("[5s]", "[10s]").replace("_age_seconds) > 120", "_age_seconds) > 3")
    token = system.run("tokens", "create", "prometheus", "--role", "monitor").strip().splitlines()[-1]
    with running_prometheus(tmp_path / "prometheus", system.variables["PENSTOCK_API_URL"], token, rules) as running:
        eventually(lambda: len(running.values("up == 1")) == len(("api", "consumer", "triggers")), within=60.0)
        yield running


def stuck(prometheus: Prometheus, queue: str) -> bool:
    return prometheus.firing("PenstockQueueStuck", queue=queue)


def test_all_that_is_named_exists_and_a_stopped_consumer_is_told_until_it_goes_on(
    system: System, prometheus: Prometheus, tmp_path: Path
) -> None:
    campaign = system.submit(ledger_campaign(tmp_path, JOBS))
    eventually(lambda: ended(system, campaign), within=60.0)
    done = 'max(penstock_job_ends_total{state="done", site="LOCAL"})'
    eventually(lambda: [value for _, value in prometheus.values(done)] == [JOBS])
    named = {name for file in (RULES, *DASHBOARDS) for name in re.findall(r"\bpenstock_[a-z_]+\b", file.read_text())}
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in named}
    assert families - prometheus.names() == set()
    samples = 'count by (__name__) (last_over_time({__name__=~"penstock_.+"}[5m]))'
    told = {labels["__name__"] for labels, _ in prometheus.values(samples)}
    assert set(HAVE_SAMPLES) - told == set()
    assert prometheus.values("sum(max by (state, site) (penstock_jobs))")[0][1] == 0
    assert not stuck(prometheus, "optimisation")

    (consumer,) = system.pids("consumer")
    os.kill(consumer, signal.SIGSTOP)
    try:
        again = system.submit(ledger_campaign(tmp_path, JOBS))
        eventually(lambda: stuck(prometheus, "optimisation"))
    finally:
        os.kill(consumer, signal.SIGCONT)
    eventually(lambda: not stuck(prometheus, "optimisation"))
    eventually(lambda: ended(system, again), within=60.0)
