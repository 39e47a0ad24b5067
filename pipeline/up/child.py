"""One process of `penstock up`: started, watched, started again with back-off, ended."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread

from pipeline.up.output import Output
from schemas.outcomes import Backoff

_CHANCE = random.SystemRandom()
BACKOFF = Backoff(base=0.5, factor=2.0, cap=30.0)
SETTLED = 60.0
"""Seconds after which a process that dies is no longer one that keeps dying."""
BAD_INPUT = 2
"""The exit code of a process whose settings are wrong: starting it again changes nothing."""

_TETHER = Path(__file__).with_name("tether.py")


@dataclass(slots=True)
class Child:
    """A program and its process. `held`: file descriptors that it keeps open as long as it lives."""

    name: str
    command: tuple[str, ...]
    output: Output
    environment: dict[str, str] = field(default_factory=dict)
    held: tuple[int, ...] = ()
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    failures: int = 0
    due_at: float = 0.0
    asked: bool = False
    """Whether it was asked to end."""

    @property
    def pid(self) -> int | None:
        """Its process, None while there is none."""
        return None if self.process is None else self.process.pid

    def start(self, surroundings: Mapping[str, str]) -> None:
        """Start it, in a session of its own (Ctrl-C is for us) and tethered to us. From the main thread alone:
        the tether is to the thread. Where the system has no room for one more, it is due again later, as after an
        end."""
        self.started_at = time.monotonic()
        self.asked = False
        # held back until it minds it: a reload must not end a process that is just starting
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_TETHER), str(os.getpid()), *self.command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**surroundings, **self.environment},
                pass_fds=self.held,
                start_new_session=True,
            )
            copier = Thread(target=self.output.copy, args=(self.name, self.process.stdout), name=self.name, daemon=True)
            copier.start()
        except (OSError, RuntimeError) as error:  # RuntimeError: no room for a thread
            if self.process is not None:
                with self.process as begun:
                    begun.kill()
                self.process = None
            self._put_off(f"can't be started: {error}")
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def ended(self) -> int | None:
        """Its exit code when it has ended by now (asked once), None while it runs or is not there."""
        if self.process is None or self.process.poll() is None:
            return None
        code = self.process.returncode
        self._sweep()
        self.process = None
        self._put_off(f"ended with {code} after {time.monotonic() - self.started_at:.1f} s")
        return code

    def terminate(self) -> None:
        """Ask it to end. May be called twice: it is asked once, since to ask again is to end it at once."""
        if self.process is not None and self.runs() and not self.asked:
            self.asked = True
            self.process.terminate()

    def reload(self) -> None:
        """Let it read its settings again."""
        if self.process is not None:
            self.process.send_signal(signal.SIGHUP)

    def runs(self) -> bool:
        """Whether it has not ended."""
        return self.process is not None and self.process.poll() is None

    def end(self, until: float) -> None:
        """Wait for its end, until `until` (monotonic seconds) at most; then kill it with all that it started."""
        if self.process is None:
            return
        try:
            self.process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.output.say("up", f"{self.name} did not end in time and is killed")
            self.process.kill()
            self.process.wait()
        self._sweep()
        self.process = None

    def _put_off(self, why: str) -> None:
        """Until it is due again; the longer, the more often it has failed."""
        self.failures = 1 if time.monotonic() - self.started_at > SETTLED else self.failures + 1
        delay = BACKOFF.delay(self.failures, _CHANCE.random())
        self.due_at = time.monotonic() + delay
        self.output.say("up", f"{self.name} {why}; again in {delay:.1f} s")

    def _sweep(self) -> None:
        """Workers that have not noticed yet that it is gone."""
        assert self.process is not None
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
