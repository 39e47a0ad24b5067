"""Batch system `local`: each pilot is a detached process of this machine, in a folder of its own.

`DATA_DIR/local-batch/QUEUE/TAG/` holds `lock`, `pid`, `exit`, `stdout`, `stderr`, `secret`, `program` (the pilot's
files, where its command runs) and `work`. The shell that runs the pilot holds `lock` for as long as it lives, whoever
started it, so that a crash of the submitter neither doubles nor loses a pilot. `pid` is "PID STARTTIME" of that shell,
which leads the pilot's session and process group (STARTTIME as in /proc/PID/stat): `penstock up` ends every live one
at its own end, with SIGTERM and then SIGKILL to the group. A pilot whose group somebody stopped (SIGSTOP) is held.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from executors.pilots.batch.environment import outsiders_environment
from executors.pilots.batch.output_files import read_output
from executors.pilots.batch.queue_options import read_options
from executors.pilots.port import (
    BATCH_ENDED,
    BatchAnswer,
    BatchState,
    PilotOutput,
    PilotRequest,
    QueueSettings,
    Submission,
)
from executors.pilots.program import SECRET_FILE, TAG, PilotProgram
from pipeline.errors import BatchSystemUnavailable

FOLDER = "local-batch"
KEPT = 7 * 86_400.0
"""Seconds that the folder of an ended pilot is kept."""
_PAUSE = 0.02
_LOCK_PATIENCE = 1.0
_children: list[subprocess.Popen[bytes]] = []
"""Shells that this process has started and that have not been seen to end."""
_children_lock = threading.Lock()

_SCRIPT = """
read -r _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ started _ < /proc/$$/stat
echo "$$ $started" > pid.new && mv pid.new pid
for limit in d v; do ulimit -S -$limit "$(ulimit -H -$limit)"; done
trap : TERM
(cd program && exec "$@" < /dev/null)
echo $? > exit.new && mv exit.new exit
"""
# Standard input of the shell is the lock; the pilot does not inherit it. The limits are those of a consumer's
# worker, which are no business of the pilot's. The trap keeps the shell alive until it has noted the exit code.


class LocalOptions(BaseModel):
    """What a queue's `options` may say."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    grace: Annotated[float, Field(ge=0, le=600)] = 15.0
    """Seconds from SIGTERM to SIGKILL: a pilot takes up to 10 s to end its jobs and report them."""
    max_running: Annotated[int, Field(ge=0)] | None = None
    """Pilots that may live in the queue at a time."""
    timeout: Annotated[float, Field(gt=0)] = 30.0
    """As every batch system has it; this one waits for nobody."""


class LocalBatchSystem:
    """One queue of it."""

    def __init__(self, queue: QueueSettings) -> None:
        self._root = queue.data_dir / FOLDER / queue.label
        self._options = read_options(queue, LocalOptions)

    def submit(self, requests: Sequence[PilotRequest], program: PilotProgram) -> Mapping[str, Submission]:
        """Start a process for each tag that has none yet; those above `max_running` are refused."""
        with self._available():
            self._root.mkdir(parents=True, exist_ok=True)
            self._forget_old()
            room = self._room()
            taken = {}
            for request in requests:
                if self._answer(request.tag) is None:
                    if room <= 0:
                        continue
                    room -= 1
                    self._start(request, program)
                self._signal(request.tag, signal.SIGCONT)
                taken[request.tag] = Submission(request.tag)
        if requests and not taken:
            limit = self._options.max_running
            raise BatchSystemUnavailable(f"local batch system in {self._root}: {limit} pilots live there, its limit")
        return taken

    def poll(self, tags: Sequence[str]) -> Mapping[str, BatchAnswer]:
        """Their states by lock and exit code."""
        _reap()
        with self._available():
            answers = {tag: self._answer(tag) for tag in tags}
        return {tag: answer for tag, answer in answers.items() if answer is not None}

    def remove(self, tags: Sequence[str]) -> None:
        """SIGTERM to all, SIGKILL after the grace to those that are left; what had ended before is forgotten."""
        with self._available():
            ended = [tag for tag, answer in self.poll(tags).items() if answer.state in BATCH_ENDED]
            self._end(tags)
            for tag in ended:
                shutil.rmtree(self._root / tag, ignore_errors=True)

    def fetch_output(self, tags: Sequence[str]) -> Mapping[str, PilotOutput]:
        """The ends of their files."""
        with self._available():
            files = {tag: (self._root / tag / "stdout", self._root / tag / "stderr") for tag in tags}
            return {tag: read_output(*both) for tag, both in files.items() if both[0].exists()}

    @contextmanager
    def _available(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise BatchSystemUnavailable(f"local batch system in {self._root}: {error}") from error

    def _room(self) -> float:
        """How many more may live."""
        if self._options.max_running is None:
            return float("inf")
        return self._options.max_running - sum(_is_locked(note.parent) for note in self._root.glob("*/lock"))

    def _start(self, request: PilotRequest, program: PilotProgram) -> None:
        folder = self._root / request.tag
        (folder / "work").mkdir(parents=True, exist_ok=True)
        lock = _take_lock(folder)
        if lock is None:
            return
        try:
            if not (folder / "pid").exists():
                _lay_out(folder, request, program)
                _spawn(folder, lock, request.tag, program.command)
        finally:
            os.close(lock)

    def _answer(self, tag: str) -> BatchAnswer | None:
        folder = self._root / tag
        locked = _is_locked(folder)  # before `exit` is read: the file is written while the lock is still held
        leader = _leader(folder)
        if locked:
            if leader is not None and _is_stopped(leader):
                return BatchAnswer(tag, BatchState.HELD, reason="its processes are stopped (SIGSTOP)")
            return BatchAnswer(tag, BatchState.QUEUED if leader is None else BatchState.RUNNING)
        if leader is None:
            return None
        try:
            code = int((folder / "exit").read_text())
        except (FileNotFoundError, ValueError):
            return BatchAnswer(tag, BatchState.FAILED, reason="killed, so that it left no exit code")
        state = BatchState.DONE if code == 0 else BatchState.FAILED
        return BatchAnswer(tag, state, code, reason=f"exit code {code}")

    def _end(self, tags: Sequence[str]) -> None:
        told = {tag for tag in tags if self._terminate(tag)}
        left = [tag for tag in tags if _is_locked(self._root / tag)]
        deadline = time.monotonic() + self._options.grace
        while left and time.monotonic() < deadline:
            time.sleep(_PAUSE)
            told |= {tag for tag in left if tag not in told and self._terminate(tag)}
            left = [tag for tag in left if _is_locked(self._root / tag)]
        for tag in left:
            self._signal(tag, signal.SIGKILL)

    def _terminate(self, tag: str) -> bool:
        """SIGTERM, which a stopped process sees when it goes on."""
        return self._signal(tag, signal.SIGTERM) and self._signal(tag, signal.SIGCONT)

    def _signal(self, tag: str, number: signal.Signals) -> bool:
        """To the process group, whose leader can be no other while the lock is held; whether it was there."""
        folder = self._root / tag
        leader = _leader(folder)
        if leader is None or not _is_locked(folder):
            return False
        with suppress(ProcessLookupError):
            os.killpg(leader, number)
            return True
        return False

    def _forget_old(self) -> None:
        horizon = time.time() - KEPT
        for note in self._root.glob("*/exit"):
            if note.stat().st_mtime < horizon:
                shutil.rmtree(note.parent, ignore_errors=True)


def _lay_out(folder: Path, request: PilotRequest, program: PilotProgram) -> None:
    """Each pilot has a copy of the program, so that an upgrade changes nothing under a running one."""
    (folder / "program").mkdir(exist_ok=True)
    for name, content in program.files.items():
        (folder / "program" / name).write_bytes(content)
    with open(folder / "secret", "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as stream:
        stream.write(request.secret)


def _spawn(folder: Path, lock: int, tag: str, command: Sequence[str]) -> None:
    """Start the shell; it takes the lock over."""
    clean = outsiders_environment()
    path = os.pathsep.join((str(Path(sys.executable).parent), clean.get("PATH", os.defpath)))
    own = {TAG: tag, SECRET_FILE: str(folder / "secret"), "PENSTOCK_PILOT_WORKDIR": str(folder / "work")}
    with (folder / "stdout").open("ab") as stdout, (folder / "stderr").open("ab") as stderr:
        process = subprocess.Popen(
            ["/bin/sh", "-c", _SCRIPT, "penstock-pilot", *command],
            cwd=folder,
            env={**clean, "PATH": path, **own},
            stdin=lock,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
    with _children_lock:
        _children.append(process)


def _reap() -> None:
    """Ended children would stay zombies for as long as we live. No thread each: a worker's memory limit counts
    their stacks, and 120 pilots were all that it had room for."""
    with _children_lock:
        _children[:] = [process for process in _children if process.poll() is None]


def _leader(folder: Path) -> int | None:
    """The process group of a pilot that was started."""
    try:
        return int((folder / "pid").read_text().split()[0])
    except FileNotFoundError:
        return None


def _is_stopped(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _take_lock(folder: Path) -> int | None:
    """The lock of a pilot that was not started yet; None when it was, or when another submitter is at it."""
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + _LOCK_PATIENCE
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if (folder / "pid").exists() or time.monotonic() > deadline:
                os.close(lock)
                return None
            time.sleep(_PAUSE)  # a poll holds it for an instant
        else:
            return lock


def _is_locked(folder: Path) -> bool:
    try:
        lock = os.open(folder / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False
