"""Which attempts were ever started in this work directory, by whichever process: none is started twice.

One file per attempt, made once and never removed while the pilot lives. Its starter holds a lock on it, so that a
later process can tell an attempt that still runs elsewhere from one whose pilot was killed.
"""

import fcntl
import json
import os
import threading
from contextlib import suppress
from typing import IO, Dict, List

from pipeline.pilot.folders import Key


class Ledger:
    """Of one pilot (by its id), in a folder that processes may share."""

    def __init__(self, folder: str, pilot_id: int) -> None:
        self._folder = folder
        self._pilot_id = pilot_id
        self._lock = threading.Lock()
        self._open: Dict[Key, IO[str]] = {}

    def claim(self, key: Key) -> bool:
        """Whether the attempt may start here: True once for all processes and all times. Raises OSError."""
        try:
            stream = open(self._path(key), "x", encoding="utf-8")  # noqa: SIM115 - open until `close`: it holds the lock
        except FileExistsError:
            return False
        with suppress(OSError):  # a file system without locks: the entry then is never taken for an orphan
            fcntl.flock(stream, fcntl.LOCK_EX)
        self._state(stream, key, "started")
        with self._lock:
            self._open[key] = stream
        return True

    def knows(self, key: Key) -> bool:
        """Whether the attempt was ever claimed."""
        return os.path.exists(self._path(key))

    def close(self, key: Key) -> None:
        """The attempt has ended and its report is safe on disk. Raises OSError."""
        with self._lock:
            stream = self._open.pop(key, None)
        if stream is not None:
            with stream:
                self._state(stream, key, "ended")

    def orphans(self) -> List[Key]:
        """Attempts of this pilot that a process started and did not live to end; each is named once. Raises OSError."""
        found = []
        for name in sorted(os.listdir(self._folder)):
            with open(os.path.join(self._folder, name), "r+", encoding="utf-8") as stream:
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    entry = json.load(stream)
                except (OSError, ValueError):
                    continue  # its starter lives, or is just writing it
                if entry["pilot_id"] == self._pilot_id and entry["state"] == "started":
                    key = (int(entry["job_id"]), int(entry["attempt"]))
                    self._state(stream, key, "lost")
                    found.append(key)
        return found

    def _path(self, key: Key) -> str:
        return os.path.join(self._folder, "{}-{}-{}".format(self._pilot_id, *key))

    def _state(self, stream: IO[str], key: Key, state: str) -> None:
        stream.seek(0)
        stream.truncate()
        json.dump({"pilot_id": self._pilot_id, "job_id": key[0], "attempt": key[1], "state": state}, stream)
        stream.flush()
        os.fsync(stream.fileno())
