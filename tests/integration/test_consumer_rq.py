"""Our queues served by a stock `rq worker`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.store.queue_sizes import all_work
from tests.outside.stage import OUTSIDE, QUEUE, StageMaker, rehearsal, stages
from tests.servers import RedisServer


@pytest.fixture
def make_stage(tmp_path: Path, redis_server: RedisServer) -> Iterator[StageMaker]:
    redis_server.flush()
    with stages(tmp_path, redis_server.url) as make:
        yield make


def test_a_stock_rq_worker_does_the_whole_round(make_stage: StageMaker, redis_server: RedisServer) -> None:
    stage = make_stage(message_attempts=1)
    stage.publish(
        rehearsal(1, faults={1: "follow"}),
        rehearsal(2, 3, 4, faults={3: "raise"}),
        rehearsal(5, faults={5: "retry"}),
        rehearsal(6, faults={6: "outside"}),
    )
    done = subprocess.run(
        [
            str(Path(sys.executable).parent / "rq"), "worker", "--burst", "--serializer", "json",
            "--url", redis_server.url, QUEUE,
        ],
        env={
            **os.environ,
            "PYTHONPATH": str(OUTSIDE),
            "PENSTOCK_DATA_DIR": str(stage.folder),
            "PENSTOCK_BROKER_URL": redis_server.url,
            "PENSTOCK_MESSAGE_ATTEMPTS": "1",
        },
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert stage.executed() == dict.fromkeys([1, 1_000_001, 2, 4], 1), done.stderr
    reasons = {letter.reason for letter in stage.dead()}
    assert reasons == {"LookupError('there is no such place')", "said to be early"}
    assert stage.deferred() == 1
    assert stage.database.read(all_work)[QUEUE].settled == 4, "one of five messages was put off"
    assert stage.empty()
