"""The loops of a consumer's queues: one for each, and while settings change hands, one more that finishes what it has.

A loop keeps the settings that it began with. New ones come with a successor, which receives from now on, while the loop
before it receives no more and settles what is in flight.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pipeline.runtime.queue_consumer import QueueConsumer
from pipeline.runtime.spec import ConsumerSpec
from pipeline.settings import Settings
from pipeline.store.database import Database
from pipeline.store.instances import Load, Pulse, Wish
from pipeline.store.queue_sizes import Work


@dataclass(frozen=True, slots=True)
class _Now:
    """Who works now. Exchanged as a whole, since other threads read it."""

    serving: tuple[QueueConsumer, ...] = ()
    retired: tuple[QueueConsumer, ...] = ()
    done: Mapping[str, Work] = field(default_factory=dict)
    """What was done by loops that have ended, by queue."""

    @property
    def all(self) -> tuple[QueueConsumer, ...]:
        return self.serving + self.retired

    def without(self, over: Iterable[QueueConsumer]) -> _Now:
        """What is left when these have ended."""
        done = dict(self.done)
        for loop in over:
            done[loop.queue] = done.get(loop.queue, Work(loop.queue)).plus(loop.work)
        serving = tuple(loop for loop in self.serving if loop not in over)
        return _Now(serving, tuple(loop for loop in self.retired if loop not in over), done)

    def work(self) -> tuple[Work, ...]:
        """All that was done, by queue."""
        return tuple(self.without(self.all).done.values())


class Loops:
    """For the process's main thread, except for what tells (`pulse`, `stuck`, `unready`) and `obey`."""

    def __init__(self, specs: Sequence[ConsumerSpec], database: Database, instance: str) -> None:
        self.failed = False
        """Whether a loop ended by an error of its own."""
        self.drained = False
        """Whether a queue is served no more, since it was drained."""
        self._specs = {spec.queue: spec for spec in specs}
        self._database = database
        self._instance = instance
        self._generation = 0
        self._now = _Now()

    def start(self, settings: Settings) -> None:
        """Serve every queue."""
        self._now = _Now(self._made(settings, dict.fromkeys(self._specs, False)))
        for loop in self._now.serving:
            loop.start()

    def renew(self, settings: Settings) -> None:
        """Serve with other settings every queue that is served and shall be. When it raises, who served still does."""
        now = self._now
        before = [loop for loop in now.serving if loop.receives]
        successors = self._made(settings, {loop.queue: loop.paused for loop in before})
        self._begin(successors)
        drained = tuple(loop for loop in now.serving if loop not in before)
        self._now = replace(now, serving=successors + drained, retired=(*now.retired, *before))
        for loop in before:
            loop.retire()

    @property
    def settling(self) -> bool:
        """Whether loops that have a successor still finish what they have."""
        return bool(self._now.retired)

    def hurry(self) -> None:
        """Let those end by their drain deadline. May be called again and again."""
        for loop in self._now.retired:
            loop.stop()

    def stop(self, wait: float) -> None:
        """Receive no more, finish what is in flight until the drain deadline; wait for so many seconds for each.

        May be called again and again.
        """
        for loop in self._now.all:
            loop.stop()
        for loop in self._now.all:
            loop.join(wait)

    def tend(self) -> bool:
        """Part with loops that have ended, or can't; whether any is left."""
        self.failed = self.failed or any(loop.failed for loop in self._now.all)
        over = [loop for loop in self._now.all if not loop.alive or loop.leave()]
        if over:
            self.drained = self.drained or any(loop in over for loop in self._now.serving)
            self._now = self._now.without(over)
        return bool(self._now.all)

    def obey(self, wishes: Mapping[str, Wish]) -> None:
        """Do what operators wish of queues."""
        now = self._now
        for loop in now.serving:
            loop.obey(wishes.get(loop.queue))
        for loop in now.retired:
            if wishes.get(loop.queue) is Wish.DRAIN:
                loop.stop()

    def pulse(self) -> Pulse:
        """What to say of all of them together."""
        now = self._now
        pulses = [loop.pulse() for loop in now.all if loop.alive]
        ages = [pulse.oldest_age for pulse in pulses if pulse.oldest_age is not None]
        states = {loop.pulse().state for loop in now.serving if loop.alive} or {"draining"}
        loads: dict[str, Load] = {}
        for load in (load for pulse in pulses for load in pulse.loads):
            first = loads.get(load.queue)  # of the loop that serves; what the one before it still has is added
            loads[load.queue] = replace(first, in_flight=first.in_flight + load.in_flight) if first else load
        return Pulse(
            sum(pulse.in_flight for pulse in pulses),
            max(ages, default=None),
            states.pop() if len(states) == 1 else "running",
            tuple(loads.values()),
            now.work(),
        )

    def stuck(self) -> list[str]:
        """See `pipeline.health.Checks`."""
        return [complaint for loop in self._now.all for complaint in loop.stuck()]

    def unready(self) -> list[str]:
        """See `pipeline.health.Checks`."""
        return [complaint for loop in self._now.serving for complaint in loop.unready()]

    def _begin(self, successors: Sequence[QueueConsumer]) -> None:
        """Start all of them, or none: when one can't be, those that have begun finish what they have received."""
        begun: list[QueueConsumer] = []
        try:
            for loop in successors:
                loop.start()
                begun.append(loop)
        except Exception:
            for loop in successors:
                if loop in begun:
                    loop.retire()
                else:
                    loop.abandon()
            self._now = replace(self._now, retired=(*self._now.retired, *begun))
            raise

    def _made(self, settings: Settings, paused: Mapping[str, bool]) -> tuple[QueueConsumer, ...]:
        """A loop for each of these queues, or none."""
        generation, self._generation = self._generation, self._generation + 1
        made: list[QueueConsumer] = []
        try:
            for queue, is_paused in paused.items():
                spec = self._specs[queue]
                loop = QueueConsumer(settings, spec, self._database, self._instance, generation=generation)
                made.append(loop)
                loop.obey(Wish.PAUSE if is_paused else None)
        except Exception:
            for loop in made:
                loop.abandon()
            raise
        return tuple(made)
