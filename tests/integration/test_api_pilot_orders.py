"""Pilots that operators order: all of them, or the limit that is in the way."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import select

from pipeline.errors import BadInput, Conflict, NotFound
from pipeline.store.access import ensure_vo
from pipeline.store.bans import Scope, Terms, ban
from pipeline.store.database import Database
from pipeline.store.pilot_requests import Order, request
from pipeline.store.tables import pilot_caps, pilots
from schemas.api import Role
from schemas.pilot_views import PilotOrder
from schemas.sites import MetaSiteEntry, PilotCaps
from tests import building
from tests.api_server import RunningApi
from tests.vo_pilots import pilot, place, room, rows, set_queue


def test_ordered_pilots_are_requested_and_their_queue_is_due(api: RunningApi) -> None:
    at = place(api, cores=16, max_pending_pilots=5)
    with api.client(Role.OPERATOR) as client:
        made = client.submit_pilots(PilotOrder(**room(at), count=3))
    found = rows(api.database, list(made.pilot_ids))
    assert [(row.state, row.site_queue_id, row.cores) for row in found.values()] == [("requested", at.queue_id, 16)] * 3
    assert len({row.tag for row in found.values()}) == 3
    assert api.services.publisher.depth(["pilots"])["pilots"].ready


def test_an_order_that_is_repeated_with_its_key_gets_the_same_pilots(api: RunningApi) -> None:
    at = place(api, max_pending_pilots=3)
    operator = api.token(Role.OPERATOR)
    with api.http(operator) as http:

        def order(count: int, key: str) -> Any:
            return http.post("/v1/pilots/submit", json={**room(at), "count": count}, headers={"Idempotency-Key": key})

        first, again = order(2, "mine"), order(2, "mine")
        assert first.status_code == again.status_code == 201
        assert first.json()["pilot_ids"] == again.json()["pilot_ids"]
        for count in (1, 3):
            assert order(count, "mine").status_code == 409
        assert order(1, "another").json()["pilot_ids"] != first.json()["pilot_ids"][:1]


def test_orders_that_come_at_once_keep_within_the_limit(database: Database) -> None:
    at = building.site(database, max_pilots=10, max_pending_pilots=10)
    vo_id = database.transact(lambda tx: ensure_vo(tx, "default"))

    def order(number: int) -> bool:
        wanted = Order(vo_id, "default", 1, at.name, "local", 3, key=f"k{number // 2}")
        try:
            database.transact(lambda tx: request(tx, wanted))
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(order, range(12))) == 6  # three keys, each of them twice
    assert len(database.read(lambda tx: tx.rows(select(pilots.c.id)))) == 9


@pytest.mark.parametrize(
    ("queue", "limit"),
    [
        ({"max_pilots": 4}, "max_pilots of queue {label} is 4 and 3 pilots are there: no room for 2 more"),
        ({"max_pending_pilots": 2}, "max_pending_pilots of queue {label} is 2 and 1 pilots do not run yet"),
        ({"max_held_pilots": 1}, "max_held_pilots of queue {label} is 1 and 1 pilots are held"),
        ({"max_submissions": 1}, "max_submissions of queue {label} is 1"),
    ],
)
def test_an_order_over_a_limit_of_the_queue_is_refused_as_a_whole(
    api: RunningApi, queue: dict[str, int], limit: str
) -> None:
    at = place(api, **{"max_pending_pilots": 100, **queue})
    there = [pilot(api, at), pilot(api, at, "held"), pilot(api, at, "lost"), pilot(api, at, "done")]
    with api.client(Role.OPERATOR) as client:
        with pytest.raises(Conflict, match=limit.format(label=f"{at.name}/local")):
            client.submit_pilots(PilotOrder(**room(at), count=2))
        assert len(client.pilots().items) == len(there)


def test_an_order_over_a_nested_limit_is_refused_with_its_name(api: RunningApi) -> None:
    at, other = place(api, max_pending_pilots=9), place(api)
    pilot(api, other, "queued")
    meta = {"name": "both", "queues": [f"{at.name}/local", f"{other.name}/local"], "max_pending_pilots": 2}
    limits = {
        ("site", at.name): PilotCaps(max_pilots=4).model_dump_json(),
        ("vo", api.vo): PilotCaps(max_pilots=3).model_dump_json(),
        ("meta", "both"): MetaSiteEntry.model_validate(meta).model_dump_json(),
    }
    refusals = {1: "", 2: "meta-site both", 3: "VO", 5: "site"}

    def cap(kind: str, name: str) -> None:
        api.database.transact(lambda tx: tx.add(pilot_caps, kind=kind, name=name, body=limits[kind, name]))

    with api.client(Role.OPERATOR) as client:
        for (kind, name), count in zip(limits, (5, 3, 2), strict=True):
            cap(kind, name)
            with pytest.raises(Conflict, match=refusals[count]):
                client.submit_pilots(PilotOrder(**room(at), count=count))
        assert len(client.submit_pilots(PilotOrder(**room(at), count=1)).pilot_ids) == 1


def test_orders_for_the_wrong_place_or_number_are_refused_with_the_reason(api: RunningApi) -> None:
    wide, foreign, banned = place(api, nodes=4, max_pending_pilots=9), place(api, vos=["others"]), place(api)
    scope = Scope(api.vo_id(api.vo), banned.name)
    api.database.transact(lambda tx: ban(tx, scope, Terms("op", "cooling")))
    with api.client(Role.OPERATOR) as client:
        with pytest.raises(NotFound, match="there is no site queue NOWHERE/local"):
            client.submit_pilots(PilotOrder(site="NOWHERE", queue="local", count=1))
        with pytest.raises(BadInput, match="one for each of its nodes; ask for a multiple of that, not for 3"):
            client.submit_pilots(PilotOrder(**room(wide), count=3))
        with pytest.raises(BadInput, match=f"is for others, not for your VO {api.vo}"):
            client.submit_pilots(PilotOrder(**room(foreign), count=1))
        with pytest.raises(Conflict, match=r"is banned; .* lifts it"):
            client.submit_pilots(PilotOrder(**room(banned), count=1))
        assert client.pilots().items == ()
        assert len(client.submit_pilots(PilotOrder(**room(wide), count=8)).pilot_ids) == 8


def test_an_order_says_that_its_queue_backs_off(api: RunningApi) -> None:
    at = place(api)
    set_queue(api, at, reason="sbatch: down")
    with api.client(Role.OPERATOR) as client:
        (warning,) = client.submit_pilots(PilotOrder(**room(at), count=1)).warnings
    assert warning.startswith(f"{at.name}/local is left alone until ")
    assert warning.endswith("sbatch: down")
