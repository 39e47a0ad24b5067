"""How many jobs of a large campaign ten jobs of another one stand behind, counted and not timed."""

from __future__ import annotations

from collections import Counter, deque
from itertools import islice

import pytest
from sqlalchemy import func, select

from consumers.optimisation import SPEC
from pipeline.runtime.spec import Context
from pipeline.settings import Settings
from pipeline.store.database import Database
from pipeline.store.steps import JOBS_PER_MESSAGE
from pipeline.store.tables import jobs
from schemas.messages import Message
from schemas.outcomes import Done
from schemas.states import JobState
from tests.building import site
from tests.submitting import array, submit, user

MANY = 1_500
FEW = 10
SETTINGS = Settings()


class Line:
    """The queue, served in order by one worker that has, as a consumer does, its next batch at hand."""

    def __init__(self, database: Database) -> None:
        self._context = Context(SETTINGS, database, "test")
        self._queue: deque[Message] = deque()
        self._next: list[Message] = []

    def submit(self, size: int, owner: str) -> int:
        """Submit and publish as the API does; the campaign's id."""
        database = self._context.database
        window, wake_after = SETTINGS.campaign_window, SETTINGS.wake_after
        step = {"name": "a", **array(size)}
        submitted = submit(database, step, owner=user(database, subject=owner), window=window, wake_after=wake_after)
        self._queue += submitted.messages
        return submitted.campaign_id

    def work(self) -> None:
        """Execute a batch, and publish its follow-ups behind what is there by then."""
        batch = self._next or self._receive()
        self._next = self._receive()
        for outcome in SPEC.execute(self._context, batch):
            assert isinstance(outcome, Done)
            self._queue += outcome.follow_ups

    def _receive(self) -> list[Message]:
        received = list(islice(self._queue, SPEC.batch))
        for _ in received:
            self._queue.popleft()
        return received

    def waiting(self) -> Counter[int]:
        """Jobs that wait for a slot, by campaign."""
        query = select(jobs.c.campaign_id, func.count().label("many")).where(jobs.c.state == JobState.WAITING)
        rows = self._context.database.read(lambda tx: tx.rows(query.group_by(jobs.c.campaign_id)))
        return Counter({row.campaign_id: row.many for row in rows})


@pytest.mark.parametrize("rounds", [0, 1, 5])
def test_ten_jobs_stand_behind_one_window_of_a_large_campaign(database: Database, rounds: int) -> None:
    """However many it has left, and however far it has come."""
    site(database)
    line = Line(database)
    large = line.submit(MANY, "alice")
    for _ in range(rounds):
        line.work()
    before = line.waiting()[large]
    small = line.submit(FEW, "bob")
    while line.waiting()[small] < FEW:
        line.work()
    assert line.waiting()[large] - before <= SETTINGS.campaign_window * JOBS_PER_MESSAGE
    assert line.waiting()[large] < MANY / 2


def test_a_large_campaign_with_nobody_beside_it_is_served_without_a_pause(database: Database) -> None:
    site(database)
    line = Line(database)
    large = line.submit(MANY, "alice")
    window = SETTINGS.campaign_window * JOBS_PER_MESSAGE
    for number in range(1, MANY // window + 1):
        line.work()
        assert line.waiting()[large] == number * window
