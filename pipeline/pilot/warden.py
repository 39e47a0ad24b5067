"""A small process that outlives the pilot by a moment, to end the payloads of a pilot that was killed.

The kernel kills a payload's first process with the pilot (see `processes.die_with_parent`), but not
that one's children. The warden holds the other end of a pipe: when it closes, the pilot is gone.
"""

import os
import signal
import threading
from typing import Dict

from pipeline.pilot import processes


class Warden:
    """Told of each payload's session and folder. Start it before any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        reader, self._writer = os.pipe()
        if os.fork() == 0:
            os.close(self._writer)
            _keep_watch(reader)
        os.close(reader)

    def watch(self, session: int, folder: str) -> None:
        self._tell("+ {} {}".format(session, folder))

    def forget(self, session: int) -> None:
        self._tell("- {}".format(session))

    def _tell(self, line: str) -> None:
        try:
            with self._lock:
                os.write(self._writer, (line + "\n").encode())
        except BrokenPipeError:
            return  # somebody killed the warden; the kernel's own signal remains


def _keep_watch(reader: int) -> None:
    """The warden's whole life; never returns."""
    try:
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        silence = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(silence, standard)
        for session, folder in _read_until_closed(reader).items():
            processes.end_all(session, folder)
    finally:
        os._exit(0)


def _read_until_closed(reader: int) -> Dict[int, str]:
    watched: Dict[int, str] = {}
    with os.fdopen(reader, encoding="utf-8") as lines:
        for line in lines:
            sign, _, rest = line.rstrip("\n").partition(" ")
            session, _, folder = rest.partition(" ")
            if sign == "+":
                watched[int(session)] = folder
            else:
                watched.pop(int(session), None)
    return watched
