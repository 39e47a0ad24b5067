"""The trigger process: the clock turns until it is told to stop, and outlives the broker and the database."""

from __future__ import annotations

import signal
from threading import Event, Thread
from types import FrameType

from structlog import get_logger

from pipeline.errors import BrokerUnavailable, DatabaseUnavailable
from pipeline.health import HealthServer
from pipeline.metrics import BROKER_LOST
from pipeline.reload import Reloader
from pipeline.runtime.instance import Instance, identify, name_instance
from pipeline.runtime.outage import Outage
from pipeline.settings import Settings
from pipeline.store.database import Database
from pipeline.store.instances import Pulse, Wish, Wishes
from pipeline.transport.port import open_transport
from pipeline.trigger import find_triggers
from pipeline.turns import BROKER, DATABASE
from triggers.clock import Clock

TURN = 0.5
"""Seconds between two looks at the clock."""
_LOOK = 0.05
"""Seconds between two looks at whether to stop."""
END_WAIT = 0.5
"""Seconds that a stopping process waits for a call that hangs, before it leaves it to itself."""

_log = get_logger("triggers")


def run(settings: Settings) -> int:
    """Publish ticks until SIGTERM, SIGINT or a drain; the exit code. SIGHUP reloads the settings."""
    return TriggerProcess(settings).run()


class TriggerProcess:
    """The loop with its health, its entry in `instances` and its signals."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._name = name_instance("triggers")
        self._database = Database(settings.resolved_database_url())
        self._transport = open_transport(settings.resolved_broker_url(), self._name)
        self._triggers = find_triggers(settings)
        """Exchanged as a whole by the thread that reloads; the clock's takes what is there at each turn."""
        self._clock = Clock(self._database, self._transport, self._triggers, self._name)
        self._broker = Outage("broker", "triggers")
        self._store = Outage("database", "triggers")
        self._reloader = Reloader(settings, "triggers", self._renew)
        self._stopping = Event()
        self._signalled = False
        self._failed = False

    def run(self) -> int:
        """Turn until told to stop; 1 after a turn that failed for good. The first signal stops.

        The clock turns in a thread of its own, so that a broker which does not answer keeps no signal waiting.
        """
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        self._reloader.catch()
        health = HealthServer(self._settings, self)
        identity = identify("triggers", health_url=health.url, instance_id=self._name)
        instance = Instance(self._database, identity, pulse=Pulse, obey=self._obey)
        health.start()
        instance.start()
        _log.info("triggers_started", instance=self._name, triggers=len(self._clock.triggers), health=health.url)
        turning = Thread(target=self._run, name="clock", daemon=True)
        turning.start()
        while turning.is_alive() and not self._signalled and not self._stopping.is_set():
            self._reloader.look()
            turning.join(_LOOK)
        self._stopping.set()
        instance.stop()
        turning.join(END_WAIT)
        health.stop()
        self._database.close()
        _log.info("triggers_ended", instance=self._name, failed=self._failed)
        return 1 if self._failed else 0

    def stuck(self) -> list[str]:
        """See `pipeline.health.Checks`."""
        still = self._clock.turns.seconds_still
        return [] if still is None else [f"the clock has not turned for {still:.0f} s"]

    def unready(self) -> list[str]:
        """See `pipeline.health.Checks`."""
        outages = {BROKER: self._broker, DATABASE: self._store}
        away = {what for what, outage in outages.items() if outage.lasts} | {self._clock.turns.hanging}
        return [f"the {what} can't be reached" for what in outages if what in away]

    def _turn(self) -> None:
        self._clock.turns.turned()
        if not (self._broker.may_try and self._store.may_try):
            return
        self._clock.triggers = self._triggers
        try:
            self._clock.turn()
        except BrokerUnavailable as error:
            self._lost_broker(error)
            self._store.back()  # a turn asks it first
        except DatabaseUnavailable as error:
            self._store.lost(error)
        else:
            if not self._clock.refused:
                self._broker.back()
            self._store.back()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._turn()
                self._stopping.wait(TURN)
            self._transport.close()
        except BrokerUnavailable as error:
            self._lost_broker(error)
        except Exception:  # noqa: BLE001 - the thread's boundary: the process ends, and is started again
            self._failed = True
            _log.exception("clock_failed", instance=self._name)

    def _lost_broker(self, error: BrokerUnavailable) -> None:
        if self._broker.lost(error):
            BROKER_LOST.labels("triggers").inc()

    def _renew(self, settings: Settings) -> None:
        """From the next turn on; what a schedule says is due then counts as it does after a start."""
        self._triggers = find_triggers(settings)

    def _obey(self, wishes: Wishes) -> None:
        if wishes.own is Wish.DRAIN:
            self._stopping.set()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        """No more than this: setting an event here could deadlock with the wait that the signal interrupted."""
        self._signalled = True
