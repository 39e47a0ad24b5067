"""Signals that come while one is being minded."""

from __future__ import annotations

import signal
from pathlib import Path
from threading import Event

import pytest

from pipeline.api.publisher import Publisher
from pipeline.api.server import ApiServer, listen
from pipeline.api.services import Services
from pipeline.sandboxes import Sandboxes
from pipeline.settings import Settings
from pipeline.store.database import Database


class Interrupted(Event):
    """Another signal comes while it is being set, which holds a lock that can't be taken twice."""

    def __init__(self, interrupt: list[ApiServer]) -> None:
        super().__init__()
        self._interrupt = interrupt
        self._locked = False

    def set(self) -> None:
        assert not self._locked, "a deadlock"
        self._locked = True
        for server in self._interrupt:
            server.handle_exit(signal.SIGTERM, None)
        super().set()
        self._locked = False


def test_a_second_signal_in_the_midst_of_the_first_ends_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(data_dir=tmp_path, broker_url="memory://signals", api_port=0)
    database = Database(settings.resolved_database_url())
    publisher = Publisher(settings.resolved_broker_url(), "me")
    services = Services(settings, database, publisher, Sandboxes(f"file://{tmp_path}"), "me")
    with listen(settings) as listener:
        server = ApiServer(services, listener)
        stopping = Interrupted([server])
        monkeypatch.setattr(services, "stopping", stopping)
        server.handle_exit(signal.SIGTERM, None)
    assert (server.should_exit, server.force_exit, stopping.is_set()) == (True, True, True)
    publisher.close()
    database.close()
