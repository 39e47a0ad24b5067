"""Batch system `local`: each pilot is a detached process of this machine, in a folder of its own.

`DATA_DIR/local-batch/QUEUE/TAG/` holds `lock`, `pid`, `exit`, `stdout`, `stderr`, `secret` and `work`. The shell
that runs the pilot holds `lock` for as long as it lives, whoever started it, so that a crash of the submitter
neither doubles nor loses a pilot. `pid` is "PID STARTTIME" of that shell, which leads the pilot's session and
process group (STARTTIME as in /proc/PID/stat): `penstock up` ends every live one at its own end, with SIGTERM and
then SIGKILL to the group. Options: `command` (instead of the pilot program), `grace` (seconds from SIGTERM to SIGKILL).
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from executors.pilots.port import BatchAnswer, BatchState, PilotOutput, PilotRequest
from pipeline.errors import BatchSystemUnavailable
from pipeline.pilot_archive import build

FOLDER = "local-batch"
GRACE = 15.0
"""Seconds from SIGTERM to SIGKILL: a pilot takes up to 10 s to end its jobs and report them."""
OUTPUT_LIMIT = 64 * 1024
KEPT = 7 * 86_400.0
"""Seconds that the folder of an ended pilot is kept."""
_PAUSE = 0.02
_LOCK_PATIENCE = 1.0
_children: list[subprocess.Popen[bytes]] = []
"""Shells that this process has started and that have not been seen to end."""

_SCRIPT = """
read -r _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ started _ < /proc/$$/stat
echo "$$ $started" > pid.new && mv pid.new pid
for limit in d v; do ulimit -S -$limit "$(ulimit -H -$limit)"; done
trap : TERM
"$@" < /dev/null
echo $? > exit.new && mv exit.new exit
"""
# Standard input of the shell is the lock; the pilot does not inherit it. The limits are those of a consumer's
# worker, which are no business of the pilot's. The trap keeps the shell alive until it has noted the exit code.


class LocalBatchSystem:
    """One queue of it."""

    def __init__(self, label: str, options: Mapping[str, Any], data_dir: Path) -> None:
        self._root = data_dir / FOLDER / label
        self._command = tuple(str(part) for part in options.get("command", ()))
        self._grace = float(options.get("grace", GRACE))

    def submit(self, requests: Sequence[PilotRequest]) -> Mapping[str, str]:
        """Start a process for each tag that has none yet."""
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            self._forget_old()
            for request in requests:
                self._start(request)
        except OSError as error:
            raise BatchSystemUnavailable(f"local batch system in {self._root}: {error}") from error
        return {request.tag: request.tag for request in requests}

    def poll(self, tags: Sequence[str]) -> Mapping[str, BatchAnswer]:
        """Their states by lock and exit code."""
        _reap()
        answers = {tag: self._answer(tag) for tag in tags}
        return {tag: answer for tag, answer in answers.items() if answer is not None}

    def remove(self, tags: Sequence[str]) -> None:
        """SIGTERM to all, SIGKILL after the grace to those that are left."""
        told = {tag for tag in tags if self._signal(tag, signal.SIGTERM)}
        left = [tag for tag in tags if _is_locked(self._root / tag)]
        deadline = time.monotonic() + self._grace
        while left and time.monotonic() < deadline:
            time.sleep(_PAUSE)
            told |= {tag for tag in left if tag not in told and self._signal(tag, signal.SIGTERM)}
            left = [tag for tag in left if _is_locked(self._root / tag)]
        for tag in left:
            self._signal(tag, signal.SIGKILL)

    def fetch_output(self, tags: Sequence[str]) -> Mapping[str, PilotOutput]:
        """The last 64 KiB of each stream."""
        there = [tag for tag in tags if (self._root / tag / "stdout").exists()]
        return {
            tag: PilotOutput(_tail(self._root / tag / "stdout"), _tail(self._root / tag / "stderr")) for tag in there
        }

    def _start(self, request: PilotRequest) -> None:
        folder = self._root / request.tag
        (folder / "work").mkdir(parents=True, exist_ok=True)
        lock = _take_lock(folder)
        if lock is None:
            return
        try:
            if not (folder / "pid").exists():
                _spawn(folder, lock, self._command or _pilot_command(folder, request))
        finally:
            os.close(lock)

    def _answer(self, tag: str) -> BatchAnswer | None:
        folder = self._root / tag
        locked = _is_locked(folder)  # before `exit` is read: the file is written while the lock is still held
        begun = (folder / "pid").exists()
        if locked:
            return BatchAnswer(tag, BatchState.RUNNING if begun else BatchState.QUEUED)
        if not begun:
            return None
        try:
            code = int((folder / "exit").read_text())
        except (OSError, ValueError):
            return BatchAnswer(tag, BatchState.FAILED, reason="killed, so that it left no exit code")
        state = BatchState.DONE if code == 0 else BatchState.FAILED
        return BatchAnswer(tag, state, code, reason=f"exit code {code}")

    def _signal(self, tag: str, number: signal.Signals) -> bool:
        """To the process group, whose leader can be no other while the lock is held; whether it was there."""
        folder = self._root / tag
        with suppress(OSError, ValueError, IndexError):
            pid = int((folder / "pid").read_text().split()[0])
            if _is_locked(folder):
                os.killpg(pid, number)
                return True
        return False

    def _forget_old(self) -> None:
        horizon = time.time() - KEPT
        for note in self._root.glob("*/exit"):
            if note.stat().st_mtime < horizon:
                shutil.rmtree(note.parent, ignore_errors=True)


def _pilot_command(folder: Path, request: PilotRequest) -> list[str]:
    """Each pilot has a copy of the program, so that an upgrade changes nothing under a running one."""
    secret = folder / "secret"
    with open(secret, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as stream:
        stream.write(request.secret)
    return [
        sys.executable,
        str(build(folder)),
        *("--tag", request.tag),
        *request.arguments,
        *("--secret-file", str(secret)),
        *("--workdir", str(folder / "work")),
    ]


def _spawn(folder: Path, lock: int, command: Sequence[str]) -> None:
    """Start the shell; it takes the lock over. Settings are kept from the pilot, since they hold passwords."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    path = os.pathsep.join((str(Path(sys.executable).parent), clean.get("PATH", os.defpath)))
    with (folder / "stdout").open("ab") as stdout, (folder / "stderr").open("ab") as stderr:
        process = subprocess.Popen(
            ["/bin/sh", "-c", _SCRIPT, "penstock-pilot", *command],
            cwd=folder,
            env={**clean, "PATH": path},
            stdin=lock,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
    _children.append(process)


def _reap() -> None:
    """Ended children would stay zombies for as long as we live. No thread each: a worker's memory limit counts
    their stacks, and 120 pilots were all that it had room for."""
    _children[:] = [process for process in _children if process.poll() is None]


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


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - OUTPUT_LIMIT))
            return stream.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
