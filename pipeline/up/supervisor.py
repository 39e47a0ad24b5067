"""The life of `penstock up`: prepare, start, watch, and end everything in order."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

from pipeline.embedded import redis_answers, redis_command
from pipeline.errors import BrokerUnavailable
from pipeline.reload import Reloader
from pipeline.runtime.spec import declared_queues
from pipeline.settings import Settings
from pipeline.store.database import Database
from pipeline.up.child import BAD_INPUT, Child
from pipeline.up.crew import Crew, Wished
from pipeline.up.output import Output
from pipeline.up.pilots import end_local_pilots
from pipeline.up.preparation import locked_folder, prepare_database
from pipeline.up.readiness import api_answers, has_registered, noted_url

LOOK = 0.1
"""Seconds between two looks at the children."""
REDIS_START = 30.0
"""Seconds that the private Redis may take to load what it kept."""
END = 5.0
"""Seconds that a process may take beyond its own deadline to end."""
NAMES = ("up", "redis", "api", "consumer", "triggers")
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run_everything(
    settings: Settings, surroundings: Mapping[str, str], *, upgrade: bool, ready_file: Path | None
) -> int:
    """Run until SIGINT or SIGTERM comes; the exit code. `surroundings`: the environment that the processes get.

    SIGHUP is passed on to them once the settings have been found right, so that all of them reload or none does.

    Raises Conflict when another `penstock up` has the folder, SchemaMismatch and DatabaseUnavailable.
    """
    with locked_folder(settings.resolved_data_dir()) as lock:
        (settings.resolved_data_dir() / "api.url").unlink(missing_ok=True)
        done = prepare_database(settings, upgrade=upgrade)
        house = House(settings, surroundings, lock)
        if done:
            house.output.say("up", done)
        return house.live(ready_file)


class House:
    """The processes, and what has happened to them so far."""

    def __init__(self, settings: Settings, surroundings: Mapping[str, str], lock: int) -> None:
        self.output = Output(NAMES)
        self._settings = settings
        self._surroundings = surroundings
        self._signals = 0
        self._reloader = Reloader(settings, "up", self._adopt)
        self._ready = False
        self._stage = _stages(settings, self.output, lock)
        self._crew = Crew(declared_queues(), self._consumer_of, self.output, settings.drain_deadline + END)

    def live(self, ready_file: Path | None) -> int:
        """Start everything, watch until a signal comes, end everything; the exit code."""
        code = 0
        self._reloader.catch()
        with self._minding_signals(), _opened(self._settings) as database:
            wished = Wished(database)
            try:
                self._start()
                while not self._signals and not code:
                    code = self._watch()
                    if self._ready:
                        self._crew.follow(wished.workers)
                    elif not code:
                        self._look_whether_ready(database, ready_file)
                        if self._ready:
                            wished.start()
                    self._reloader.look()
                    time.sleep(LOOK)
            finally:
                wished.stop()
                self._end()
                if ready_file is not None:
                    ready_file.unlink(missing_ok=True)
        return code

    def _start(self) -> None:
        """Redis first: the others would only complain meanwhile."""
        redis = self._stage["redis"]
        if redis is not None:
            redis.start(self._surroundings)
            self._wait_for_redis(redis)
        for name, child in self._stage.items():
            if child is not None and name != "redis" and not self._signals:
                child.start(self._surroundings)

    def _wait_for_redis(self, redis: Child) -> None:
        path = self._settings.redis_socket()
        deadline = time.monotonic() + REDIS_START
        while not self._signals and not redis_answers(path):
            if redis.ended() is not None or time.monotonic() > deadline:
                raise BrokerUnavailable(f"the private Redis does not answer at {path}; what it says stands above")
            time.sleep(LOOK)

    def _watch(self) -> int:
        """Start again what has died, one at a time: what many need to begin is much. The exit code that ends all, 0 for
        none."""
        for child in self._children():
            code = child.ended()
            if code == BAD_INPUT and not self._ready:
                self.output.say("up", f"{child.name} can't start (see above); ending")
                return BAD_INPUT
            if child.process is None and time.monotonic() >= child.due_at:
                child.start(self._surroundings)
                break
        return 0

    def _look_whether_ready(self, database: Database, ready_file: Path | None) -> None:
        url = noted_url(self._settings)
        consumer, api = self._stage["consumer"], self._stage["api"]
        assert consumer is not None
        assert api is not None
        if url is None or not has_registered(database, consumer.pid) or not api_answers(self._settings, url):
            return
        self._ready = True
        # started again, it must be where the pilots look for it, even if any port would do before
        api.environment["PENSTOCK_API_PORT"] = str(urlsplit(url).port)
        if ready_file is not None:
            unseen = ready_file.with_name(ready_file.name + ".new")
            unseen.write_text(url + "\n")
            unseen.replace(ready_file)  # whoever waits for the file shall never find it empty
        self.output.print(f"ready {url}")
        if sys.stdout.isatty():
            folder = self._settings.resolved_data_dir()
            self.output.say("up", f"commands in other terminals find it by PENSTOCK_DATA_DIR={folder}; Ctrl-C ends it")

    def _adopt(self, settings: Settings) -> None:
        self._settings = settings
        self._crew.patience = settings.drain_deadline + END
        for name, child in self._stage.items():
            if child is not None and name != "redis":
                child.reload()
        for child in self._crew:
            child.reload()

    def _end(self) -> None:
        """Those that start things first, then what they started, the API that hears of it, the broker at last."""
        patience = self._settings.drain_deadline + END
        self._end_stage(("triggers", "consumer"), patience, self._crew)
        end_local_pilots(self._settings.resolved_data_dir(), hurry=self._hurried)
        self._end_stage(("api",), patience)
        self._end_stage(("redis",), END)

    def _end_stage(self, names: Sequence[str], patience: float, others: Iterable[Child] = ()) -> None:
        children = [child for name in names if (child := self._stage[name]) is not None]
        children += others
        for child in children:
            child.terminate()
        until = time.monotonic() + patience
        while not self._hurried() and time.monotonic() < until and any(child.runs() for child in children):
            time.sleep(LOOK / 5)
        for child in children:
            child.end(time.monotonic())

    def _hurried(self) -> bool:
        """Whether somebody asked twice."""
        return self._signals > 1

    def _children(self) -> Iterator[Child]:
        yield from (child for child in self._stage.values() if child is not None)
        yield from self._crew.serving

    def _consumer_of(self, name: str, queue: str) -> Child:
        return _penstock(name, self.output, "consume", queue)

    @contextmanager
    def _minding_signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._signals += 1


def _stages(settings: Settings, output: Output, lock: int) -> dict[str, Child | None]:
    private = not settings.broker_url
    return {
        # the lock is Redis's too, so that no second one can start on the same files while it ends
        "redis": Child("redis", tuple(redis_command(settings)), output, held=(lock,)) if private else None,
        "api": _penstock("api", output, "api"),
        "consumer": _penstock("consumer", output, "consume", *declared_queues()),
        "triggers": _penstock("triggers", output, "triggers"),
    }


def _penstock(name: str, output: Output, *words: str) -> Child:
    # -P: a folder of the user's that is called like one of our packages must not be imported
    return Child(name, (sys.executable, "-P", "-m", "pipeline.cli", *words), output)


@contextmanager
def _opened(settings: Settings) -> Iterator[Database]:
    database = Database(settings.resolved_database_url())
    try:
        yield database
    finally:
        database.close()
