"""One run of the checker: numbers through a broker, faults on the way, and the verdict on what came out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from threading import Event

from tests.chaos import history
from tests.chaos.actors import RECOVERY, Actors
from tests.chaos.brokers import Target
from tests.chaos.checker import Verdict, judge
from tests.chaos.nemesis import Fault, Nemesis
from tests.chaos.report import Outcome
from tests.proxy import Proxy
from tests.waiting import eventually

QUEUE = "chaos"
QUIET = 1.0
"""Seconds without a delivery after which the queue may be empty."""
DRAINING = 120.0
"""Seconds after the last confirmation at which what has not come counts as lost."""


def run(target: Target, folder: Path, *, messages: int, faults: Sequence[Fault]) -> Outcome:
    """Publish until so many messages are confirmed, with these faults meanwhile, and drain. Histories go to `folder`.

    AssertionError when a process ends that nobody killed, or publishing does not go on after a fault.
    """
    folder.mkdir(parents=True)
    begun = time.monotonic()
    with Proxy(target.port) as proxy, Actors(target.url(proxy.port), QUEUE, folder) as actors:
        nemesis = Nemesis(target.server, proxy, actors.kill_consumer, folder / "faults.log")
        for fault in faults:
            actors.let_publish(round(fault.share * messages))
            _await_confirmed(actors, fault.point * messages)
            _begin_publishing(actors, round(fault.ahead * messages))
            nemesis.strike(fault)
        actors.finish_publishing()
        verdict = _drain(actors, folder)
    return Outcome(target.name, messages, faults, verdict, time.monotonic() - begun)


def _await_confirmed(actors: Actors, least: float) -> None:
    eventually(lambda: actors.confirmed >= least, within=RECOVERY, every=0.005)


def _begin_publishing(actors: Actors, limit: int) -> None:
    """Let the publisher go on, and return when it is in the middle of a batch, or nearly."""
    before = actors.attempted
    actors.let_publish(limit)
    eventually(lambda: actors.attempted > before, within=RECOVERY, every=0.001)


def _drain(actors: Actors, folder: Path) -> Verdict:
    """The verdict when everything confirmed has come and nothing more does, or when it is too late."""
    pause = Event()
    deadline = time.monotonic() + DRAINING
    while True:
        before = actors.received
        pause.wait(QUIET)  # whether more comes shows only in time
        if actors.received == before and actors.confirmed:
            verdict = judge(*(history.read(folder, kind) for kind in ("attempted", "confirmed", "received")))
            if verdict.holds or time.monotonic() > deadline:
                return verdict
