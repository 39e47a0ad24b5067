"""A process's entry in `instances`: written every second, read back for what operators wish."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from threading import Event, Thread

from structlog import get_logger

from pipeline.errors import DatabaseUnavailable
from pipeline.logs import name_node
from pipeline.metrics import DATABASE_RETRIES, INSTANCE
from pipeline.store.database import Database
from pipeline.store.instances import Identity, Pulse, Wishes, beat, leave
from pipeline.store.queue_sizes import Work

INTERVAL = 1.0
"""Seconds between two beats: a wish is seen within 2 s."""
_FRESH = 10.0
_LEAVE_WAIT = 2.0

_log = get_logger("runtime")


def name_instance(kind: str) -> str:
    """An id that no other process has, readable by people, at most 64 characters; log lines carry it from now on."""
    name = f"{kind}-{socket.gethostname()[:30]}-{os.getpid()}-{secrets.token_hex(3)}"
    name_node(name)
    return name


def identify(
    kind: str, *, queues: Sequence[str] = (), health_url: str | None = None, instance_id: str | None = None
) -> Identity:
    """This process as it registers: `kind` is api, consumer, triggers and so on."""
    return Identity(
        id=instance_id or name_instance(kind),
        kind=kind,
        queues=tuple(queues),
        version=version("penstock"),
        host=socket.gethostname()[:200],
        pid=os.getpid(),
        health_url=health_url,
    )


class Instance:
    """Registers this process and keeps its entry fresh, in a thread of its own. It outlives outages of the database.

    `pulse` is asked every second; `obey`, if given, is called with the wishes whenever they were read.
    """

    def __init__(
        self,
        database: Database,
        identity: Identity,
        *,
        pulse: Callable[[], Pulse] = Pulse,
        obey: Callable[[Wishes], None] | None = None,
    ) -> None:
        self.identity = identity
        self.wishes = Wishes(None, {})
        """As last read."""
        self._database = database
        self._pulse = pulse
        self._obey = obey
        self._seen = 0.0
        self._lost = False
        self._retries = 0
        self._told: dict[str, Work] = {}
        self._ended = Event()
        self._thread = Thread(target=self._run, name="instance", daemon=True)

    def start(self) -> None:
        """Register and go on beating."""
        INSTANCE.labels(self.identity.id, self.identity.kind, self.identity.version).set(1)
        self._thread.start()

    def stop(self) -> None:
        """Take the entry away, unless that takes longer than 2 s. May be called twice."""
        self._ended.set()
        self._thread.join(_LEAVE_WAIT)

    def unready(self) -> list[str]:
        """A complaint when the database has not been reached for 10 s."""
        reached = self._seen and time.monotonic() - self._seen < _FRESH
        return [] if reached else ["the database can't be reached"]

    def _run(self) -> None:
        while not self._ended.is_set():
            self._beat()
            self._ended.wait(INTERVAL)
        work = self._news(self._pulse())
        try:
            self._database.transact(lambda tx: leave(tx, self.identity.id, work))
        except DatabaseUnavailable as error:
            _log.warning("instance_not_removed", instance=self.identity.id, error=str(error))

    def _news(self, pulse: Pulse) -> tuple[Work, ...]:
        """What was done since the last beat that succeeded."""
        since = (work.since(self._told.get(work.queue)) for work in pulse.work)
        return tuple(work for work in since if not work.is_none)

    def _beat(self) -> None:
        pulse = self._pulse()
        news = replace(pulse, work=self._news(pulse))
        retries, self._retries = self._retries, self._database.retries
        DATABASE_RETRIES.inc(self._retries - retries)
        try:
            self.wishes = self._database.transact(lambda tx: beat(tx, self.identity, news))
        except Exception as error:  # noqa: BLE001 - the thread's boundary: a beat that failed for good would be the last
            if not self._lost:
                _log.warning("database_lost", instance=self.identity.id, error=str(error))
            self._lost = True
            return
        if self._lost:
            _log.info("database_back", instance=self.identity.id)
        self._lost = False
        told = {each.queue for each in news.work}
        self._told |= {each.queue: each for each in pulse.work if each.queue in told}
        self._seen = time.monotonic()
        if self._obey is not None:
            self._obey(self.wishes)
