"""Processes, queues, health and metrics over HTTP."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from threading import Event

import pytest
from sqlalchemy import update

from pipeline.api.queue_meter import QueueMeter
from pipeline.errors import ApiUnavailable, DatabaseUnavailable
from pipeline.store import instances, metric_values, trigger_runs
from pipeline.store.database import Transaction
from pipeline.store.instances import Identity, Pulse
from pipeline.store.tables import instances as instances_table
from pipeline.store.tables import sites
from pipeline.store.trigger_runs import Run
from pipeline.transport.memory import memory_broker
from schemas.api import Role
from schemas.messages import JobsReceived, about_ids
from tests import building
from tests.api_server import RunningApi, running_api
from tests.waiting import eventually


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    with running_api(tmp_path_factory.mktemp("api")) as running:
        yield running


def register(api: RunningApi, name: str, version: str) -> None:
    identity = Identity(name, "consumer", ("optimisation", "matching"), version, "host", 1, None)
    api.database.transact(lambda tx: instances.beat(tx, identity, Pulse(in_flight=2)))


def test_instances_are_listed_with_a_warning_where_versions_differ(api: RunningApi) -> None:
    with api.client(Role.MONITOR) as client:
        register(api, "one", "1.0")
        assert client.instances().warnings == ()
        register(api, "two", "2.0")
        found = client.instances()
    assert [(item.id, item.queues, item.in_flight) for item in found.items] == [
        ("one", ("optimisation", "matching"), 2),
        ("two", ("optimisation", "matching"), 2),
    ]
    assert found.warnings == ("versions differ: 1.0 (1 process), 2.0 (1 process); finish the upgrade, or take it back",)


def test_queues_show_their_depth_consumers_and_wishes(api: RunningApi) -> None:
    register(api, "one", "1.0")
    api.services.publisher.publish(about_ids(JobsReceived, [1], now=datetime.now(UTC)))
    api.database.transact(lambda tx: instances.pause(tx, "data", "a test"))
    with api.client(Role.OPERATOR) as client:
        queues = {item.queue: item for item in client.queues().items}
    assert set(queues) >= {"optimisation", "matching", "pilots", "data", "upkeep"}
    assert (queues["optimisation"].ready, queues["optimisation"].in_flight) == (1, 0)
    assert queues["optimisation"].consumers >= 1
    assert queues["upkeep"].consumers == 0
    assert (queues["data"].wish, queues["upkeep"].wish) == ("pause", None)


def test_queues_show_how_many_consumers_are_wanted_once_that_is_measured(api: RunningApi) -> None:
    with api.client(Role.MONITOR) as client:
        assert {item.wanted for item in client.queues().items} == {None}
        QueueMeter(api.services).turn()
        assert {(item.wanted, item.arrivals_per_second) for item in client.queues().items} == {(1, 0.0)}
    with api.http() as http:
        assert 'penstock_queue_workers_wanted{queue="upkeep"} 1.0' in http.get("/metrics").text


def test_a_broker_that_is_down_leaves_the_api_ready_and_queues_unavailable(api: RunningApi) -> None:
    broker = memory_broker(api.services.settings.broker_url.removeprefix("memory://"))
    broker.stop()
    try:
        with api.http(api.token(Role.OPERATOR)) as http:
            refused = http.get("/v1/queues")
            ready = http.get("/readyz")
            assert (ready.status_code, ready.json()["complaints"]) == (200, ["the broker can't be reached"])
            told = http.get("/metrics").text
            assert "penstock_queue_ready{" not in told
            assert "penstock_broker_up 0.0" in told
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        with api.client(Role.OPERATOR) as client, pytest.raises(ApiUnavailable, match="503"):
            client.queues()
    finally:
        broker.start()
    eventually(lambda: not api.services.publisher.away)


def test_a_database_that_hangs_is_told_in_time_and_takes_one_thread(
    api: RunningApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    over, asked = Event(), list[int]()

    def hang(_work: object) -> None:
        asked.append(1)
        assert over.wait(60)
        raise DatabaseUnavailable("it was away")

    with api.http() as http, monkeypatch.context() as patched:
        patched.setattr(api.database, "read", hang)
        begun = time.monotonic()
        told = [http.get("/metrics").text for _ in range(2)]
        assert time.monotonic() - begun < 10, "Prometheus waits no longer for one"
        assert len(asked) == 1
        over.set()
        eventually(lambda: http.get("/metrics").elapsed.total_seconds() < 1 and len(asked) > 1)
        told.append(http.get("/metrics").text)
    for text in told:
        assert {"penstock_database_up 0.0", "penstock_broker_up 1.0"} <= set(text.splitlines())
        assert 'penstock_queue_ready{queue="upkeep"}' in text
        assert "penstock_queue_consumers{" not in text
    with api.http() as http:
        eventually(lambda: "penstock_database_up 1.0" in http.get("/metrics").text)


def test_what_the_system_counts_is_told_by_name_and_goes_on_under_a_new_one(api: RunningApi) -> None:
    place = building.site(api.database, "OLD-NAME")
    counted: dict[metric_values.Key, float] = {
        ("penstock_jobs", ("running", place.id)): 3,
        ("penstock_jobs", ("waiting", None)): 2,
        ("penstock_pilots", ("running", place.id, place.queue_id)): 4,
        ("penstock_job_transitions_total", (None, "received")): 7,
    }
    api.database.transact(lambda tx: metric_values.add(tx, counted))
    with api.http() as http:
        told = http.get("/metrics").text
        assert 'penstock_jobs{site="OLD-NAME",state="running"} 3.0' in told
        assert 'penstock_jobs{site="",state="waiting"} 2.0' in told
        assert 'penstock_pilots{site="OLD-NAME",site_queue="local",state="running"} 4.0' in told
        assert 'penstock_job_transitions_total{from_state="",to_state="received"} 7.0' in told
        renamed = update(sites).where(sites.c.id == place.id).values(name="NEW-NAME")
        api.database.transact(lambda tx: tx.run(renamed))
        api.database.transact(lambda tx: metric_values.add(tx, counted))
        told = http.get("/metrics").text
    assert 'penstock_jobs{site="NEW-NAME",state="running"} 6.0' in told
    assert "OLD-NAME" not in told


def test_versions_consumers_outages_and_late_ticks_are_told(api: RunningApi) -> None:
    register(api, "one", "1.0")
    late = Run("reconcile", api.database.now().replace(microsecond=0) - timedelta(seconds=100))
    api.database.transact(lambda tx: trigger_runs.claim(tx, late, "test", skipped=True))
    with api.http() as http:
        told = http.get("/metrics").text
    assert 'penstock_instances{kind="consumer",version="1.0"} 1.0' in told
    assert 'penstock_queue_consumers{queue="upkeep"} 0.0' in told
    assert "penstock_database_up 1.0" in told
    assert "penstock_broker_up 1.0" in told
    (lag,) = re.findall(r'penstock_trigger_lag_seconds{trigger="reconcile"} (\S+)', told)
    assert 69 < float(lag) < 101, "30 s after the last one, it was due"


def test_prometheus_looks_for_a_process_that_fell_silent_so_that_it_can_say_so(api: RunningApi) -> None:
    now = api.database.now()
    for name, port, silence in (("killed", 8473, 300), ("long gone", 8474, 4_000)):
        silent = Identity(name, "consumer", ("data",), "1.0", "host", 1, f"http://host:{port}")
        api.database.transact(partial(instances.beat, identity=silent, pulse=Pulse()))
        seen = update(instances_table).where(instances_table.c.id == name)
        api.database.transact(
            partial(Transaction.run, statement=seen.values(last_seen=now - timedelta(seconds=silence)))
        )
    with api.http(api.token(Role.MONITOR)) as http:
        found = {target for group in http.get("/v1/scrape-targets").json() for target in group["targets"]}
    assert "host:8473" in found
    assert "host:8474" not in found


def test_prometheus_finds_the_live_processes(api: RunningApi) -> None:
    found = Identity("found", "consumer", ("data", "upkeep"), "1.0", "host", 1, "https://host:8471")
    api.database.transact(lambda tx: instances.beat(tx, found, Pulse()))
    with api.http(api.token(Role.MONITOR)) as http:
        groups = {group["targets"][0]: group["labels"] for group in http.get("/v1/scrape-targets").json()}
    assert groups["host:8471"] == {
        "__meta_penstock_kind": "consumer",
        "__meta_penstock_queues": ",data,upkeep,",
        "__meta_penstock_version": "1.0",
        "__meta_penstock_instance": "found",
        "__scheme__": "https",
    }


def test_methods_that_somebody_makes_up_are_counted_as_one(api: RunningApi) -> None:
    with api.http() as http:
        statuses = {http.request(f"MADE{number}UP", "/livez").status_code for number in range(3)}
        told = http.get("/metrics").text
    assert statuses == {405}
    assert 'penstock_http_requests_total{method="other",route="/livez",status="405"} 3.0' in told
    assert "MADE" not in told


def test_health_and_metrics_want_no_token(api: RunningApi) -> None:
    with api.http() as http:
        assert http.get("/livez").json() == http.get("/readyz").json() == {"status": "ok", "complaints": []}
        http.get("/v1/campaigns/5")
        metrics = http.get("/metrics").text
    wanted = 'penstock_http_requests_total{method="GET",route="/v1/campaigns/{campaign_id}",status="401"}'
    assert wanted in metrics
    assert 'penstock_queue_ready{queue="upkeep"} 0.0' in metrics
    assert 'penstock_queue_in_flight{queue="upkeep"} 0.0' in metrics
    assert 'penstock_queue_oldest_age_seconds{queue="upkeep"}' not in metrics, "nothing waits"
