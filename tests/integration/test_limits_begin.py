"""A limit that begins while jobs are being matched counts those jobs: nothing is missed, so nothing is exceeded."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import select, text

from executors.matching.ground import Ground
from pipeline.settings import Settings
from pipeline.store import jobs, matching, policy_apply, sites
from pipeline.store.access import Caller
from pipeline.store.database import Database, Transaction
from pipeline.store.jobs import Change
from pipeline.store.matching import Alive, Kinds
from pipeline.store.tables import limits
from schemas.api import Role
from schemas.policy import Policy
from schemas.sites import SitesFile
from schemas.states import JobState
from tests.backlog import person, waiting
from tests.building import Site, offering, site
from tests.submitting import user
from tests.waiting import eventually

GRANT = {"cores": 1, "memory": 1, "disk": 1, "gpus": 0, "alternative": 0, "charge": 1}


def _apply_policy(database: Database, at: Site) -> None:
    policy = Policy.model_validate({"limits": [{"name": "few", "max_running": 5, "site": at.name}]})
    caller = Caller(vo_id=user(database).vo_id, vo="default", role=Role.OPERATOR, subject="root")
    database.transact(lambda tx: policy_apply.apply(tx, caller, policy))


def _apply_site(database: Database, at: Site) -> None:
    entry = {"name": at.name, "max_running_jobs": 5, "storages": ["disk"], "queues": [{"name": "local"}]}
    file = SitesFile.model_validate({"storages": [{"name": "disk", "url": "file:///data"}], "sites": [entry]})
    database.transact(lambda tx: sites.apply(tx, file, data_dir=Path("/data")))


def _match_meanwhile(tx: Transaction, pilot_id: int, job_ids: list[int], meanwhile: Callable[[], object]) -> None:
    """As matching does it, with something else between its look at the limits and its assignments."""
    places = matching.places(tx, matching.lock_slots(tx, [pilot_id], "offered"), Kinds(), Alive(90, 3))
    ground = Ground.read(tx, places.values(), {}, Settings())
    assert not ground.limits
    meanwhile()
    values = tuple({**GRANT, "pilot_id": pilot_id, "site_id": places[pilot_id].site_id}.items())
    jobs.apply(tx, [Change(job, JobState.MATCHED, values=values) for job in jobs.lock(tx, job_ids)])


def _somebody_waits(database: Database) -> bool:
    waiters = text("SELECT COUNT(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'")
    with database.engine.connect() as connection:
        return bool(connection.execute(waiters).scalar())


@pytest.mark.parametrize("begin", [_apply_policy, _apply_site], ids=["of a policy", "of a site"])
def test_a_limit_that_begins_counts_what_is_being_matched(
    mariadb: Database, begin: Callable[[Database, Site], None]
) -> None:
    at = site(mariadb)
    ids = waiting(mariadb, person(mariadb, "default"), 3)
    pilot_id = offering(mariadb, at)
    with ThreadPoolExecutor(1) as other:
        began = []

        def meanwhile() -> None:
            began.append(other.submit(begin, mariadb, at))
            eventually(partial(_somebody_waits, mariadb), every=0.3)  # what it asks is refreshed when left alone

        mariadb.transact(partial(_match_meanwhile, pilot_id=pilot_id, job_ids=ids, meanwhile=meanwhile))
        began[0].result(30)
    assert mariadb.read(lambda tx: tx.scalar(select(limits.c.running))) == 3
