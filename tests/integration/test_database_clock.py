"""The database's clock, without asking it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from pipeline.store import database as store
from pipeline.store.database import Database


def test_the_clock_of_a_database_elsewhere_is_known_from_its_last_transaction(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert abs(database.clock() - database.now()) < timedelta(seconds=5)
    behind = timedelta(hours=1)
    monkeypatch.setattr(store, "_now", lambda _connection: datetime.now(UTC) - behind)
    database.now()
    assert abs(datetime.now(UTC) - behind - database.clock()) < timedelta(seconds=5)
