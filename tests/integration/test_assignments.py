"""What a pilot is told of an attempt: what it was granted, and where it is killed."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.api.assignments import assignments
from pipeline.store import jobs
from pipeline.store.database import Database
from tests.pilot_rows import scene, set_job

ELASTIC = {
    "cores": {"min": 2, "max": 8},
    "memory": {"overhead": 100, "per_core": 200, "limit": {"per_core": 300}},
    "wall_time": 7200,
    "any_of": [{"gpu": {"count": {"min": 1, "max": 4}}}, {"disk": 500, "memory": {"overhead": 900}}],
}


@pytest.mark.parametrize(
    ("granted", "told"),
    [
        ({"cores": 6, "memory": 1300, "disk": 1024, "gpus": 2, "alternative": 0}, (6, 1900, 1024, 7200, 2)),
        ({"cores": 8, "memory": 900, "disk": 500, "gpus": 0, "alternative": 1}, (8, 900, 500, 7200, 0)),
        ({"cores": None, "memory": None, "disk": None, "gpus": None, "alternative": None}, (2, 700, 1024, 7200, 1)),
    ],
    ids=["first alternative", "second alternative", "by release 0.2.0"],
)
def test_a_pilot_is_told_what_was_granted_and_the_limit_of_memory(
    database: Database, granted: dict[str, Any], told: tuple[int, ...]
) -> None:
    at = scene(database, 1, requirements=ELASTIC)
    set_job(database, at.jobs()[0].id, **granted)

    ((one,),) = at.as_pilot(lambda tx, pilot: assignments(tx, [(pilot, jobs.of_pilot(tx, pilot.id))]))
    assert (one.cores, one.memory, one.disk, one.wall_time, one.gpus) == told
