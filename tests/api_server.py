"""A real API for tests: the application in a real server, in a thread, on SQLite and the memory transport."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread
from uuid import uuid4

import httpx

from pipeline.api.publisher import Publisher
from pipeline.api.server import ApiServer, listen, url_of
from pipeline.api.services import Services
from pipeline.client import Client
from pipeline.sandboxes import Sandboxes
from pipeline.settings import Settings
from pipeline.store.access import NewToken, create_token, ensure_vo
from pipeline.store.database import Database
from pipeline.store.tables import metadata
from schemas.api import Role
from schemas.outcomes import Backoff
from tests.waiting import eventually


@dataclass(frozen=True, slots=True)
class RunningApi:
    """Where it listens, and what it works with."""

    url: str
    services: Services
    server: ApiServer
    vo: str = "default"
    """The VO of tokens that name none."""

    @property
    def database(self) -> Database:
        return self.services.database

    def in_new_vo(self) -> RunningApi:
        """The same server, for a test that wants a VO of its own."""
        return replace(self, vo=f"vo-{uuid4().hex[:8]}")

    def vo_id(self, vo: str) -> int:
        """The id of a VO, made if there is none."""
        return self.database.transact(lambda tx: ensure_vo(tx, vo))

    def token(self, role: Role, vo: str | None = None, subject: str | None = None) -> str:
        """A new token."""
        vo_id = self.vo_id(vo or self.vo)
        wanted = NewToken(role=role, subject=subject or f"{role} of {vo or self.vo}")
        return self.database.transact(lambda tx: create_token(tx, vo_id, wanted)).token

    def client(self, role: Role = Role.USER, vo: str | None = None, subject: str | None = None) -> Client:
        """A client with a new token."""
        return Client(self.url, self.token(role, vo, subject))

    def http(self, token: str | None = None) -> httpx.Client:
        """A bare HTTP client."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30)


@contextmanager
def running_api(folder: Path, *, database_url: str = "", **settings: object) -> Iterator[RunningApi]:
    """An API that serves until the block ends; `settings` override the test's own."""
    values = {"data_dir": folder, "database_url": database_url, "broker_url": f"memory://{uuid4().hex}", "api_port": 0}
    chosen = Settings.model_validate({**values, **settings})
    database = Database(chosen.resolved_database_url())
    metadata.create_all(database.engine)
    publisher = Publisher(chosen.resolved_broker_url(), "api-under-test", Backoff(base=1e-6, cap=1e-6))
    sandboxes = Sandboxes(chosen.resolved_sandbox_url())
    services = Services(chosen, database, publisher, sandboxes, "api-under-test")
    with listen(chosen) as listener:
        server = ApiServer(services, listener)
        thread = Thread(target=server.serve_forever, name="api-under-test")
        thread.start()
        try:
            eventually(lambda: server.started, within=20)
            yield RunningApi(url_of(chosen, listener), services, server)
        finally:
            server.stop()
            thread.join()
            publisher.close()
            database.close()
