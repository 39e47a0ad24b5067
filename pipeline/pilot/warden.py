"""The process that payloads are started from: forked before the pilot has threads, it has one for all its life.

For each payload it forks a guardian (see guardian.py), which hears from the pilot over a socket of its own. The warden
hears from the pilot, too: when that is gone, it waits for its guardians and takes away what the pilot has made outside
of its folder. What comes to it as an orphan has lost its guardian, which a payload may have killed, and is ended.
"""

import array
import os
import select
import signal
import socket
import threading
import time
from contextlib import suppress
from typing import NoReturn, Sequence, Set

from pipeline.pilot import cgroups, containers, guardian, processes
from pipeline.pilot.errors import InfrastructureFailed

_INT = array.array("i").itemsize
_PATIENCE = 20.0
_FAREWELL = 3.0
_READ = 4096


class Warden:
    """Start it before any thread."""

    def __init__(self, nest: cgroups.Nest, runtimes: Sequence[containers.Runtime]) -> None:
        """What `nest` and `runtimes` have made is taken away at the end, in whatever way that comes."""
        self.nest = nest
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._pid = os.fork()
        if self._pid == 0:
            self._socket.close()
            _keep_watch(theirs, nest, runtimes)
        theirs.close()

    def guardian(self) -> socket.socket:
        """A new guardian, as the socket that it listens to. Raises InfrastructureFailed."""
        mine, theirs = socket.socketpair()
        try:
            with self._lock, theirs:
                rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [theirs.fileno()]))
                self._socket.sendmsg([b"+"], [rights])
        except OSError as error:
            mine.close()
            raise InfrastructureFailed("the pilot's warden is gone: {}".format(error), "pilot_error") from error
        return mine

    def close(self) -> None:
        """No payload is started any more. Gives it a moment to end what is left and to put everything back."""
        self._socket.close()
        until = time.monotonic() + _FAREWELL
        with suppress(ChildProcessError):
            while os.waitpid(self._pid, os.WNOHANG) == (0, 0) and time.monotonic() < until:
                time.sleep(_FAREWELL / 300)


def _keep_watch(pilot: socket.socket, nest: cgroups.Nest, runtimes: Sequence[containers.Runtime]) -> NoReturn:
    """The warden's whole life."""
    try:
        os.setsid()
        processes.adopt_orphans()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        _close_all_but(pilot.fileno())
        _Warden(pilot).work()
        nest.leave()
        containers.sweep(runtimes)
    finally:
        os._exit(0)


class _Warden:
    def __init__(self, pilot: socket.socket) -> None:
        self._pilot = pilot
        self._guardians: Set[int] = set()
        self._woken = processes.wake_at_ends()

    def work(self) -> None:
        """Until the pilot is gone, and every guardian after it."""
        is_pilot_there = True
        while is_pilot_there:
            ready, _, _ = select.select([self._pilot.fileno(), self._woken], [], [])
            if self._woken in ready:
                self._tend()
            if self._pilot.fileno() in ready:
                is_pilot_there = self._obey()
        while self._reap() and self._guardians:
            select.select([self._woken], [], [], 1.0)
            self._tend()
        processes.end_descendants(self._reap, _PATIENCE)

    def _obey(self) -> bool:
        """Fork a guardian; False when nobody asks any more."""
        # without the flag every payload would inherit the socket
        content, ancillary, _, _ = self._pilot.recvmsg(_READ, socket.CMSG_SPACE(_INT), socket.MSG_CMSG_CLOEXEC)
        if not content:
            return False
        for _, _, data in ancillary:
            (descriptor,) = array.array("i", data[:_INT])
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=descriptor) as control:
                pid = os.fork()
                if pid == 0:
                    self._pilot.close()
                    guardian.guard(control)
                self._guardians.add(pid)
        return True

    def _tend(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._woken, _READ)
        lost = len(self._guardians)
        if self._reap() and len(self._guardians) < lost:
            self._end_strays()

    def _end_strays(self) -> None:
        """Children that are no guardians are what a killed one has left."""
        processes.end_descendants(self._is_any_stray_left, 1.0, self._guardians)

    def _reap(self) -> bool:
        """Whether there are children still."""
        return processes.reap(lambda pid, _: self._guardians.discard(pid))

    def _is_any_stray_left(self) -> bool:
        self._reap()
        return bool(processes.descendants(processes.table(), os.getpid(), self._guardians))


def _close_all_but(kept: int) -> None:
    """What the batch system waits for to be closed, or has left open, is not for payloads, nor for the warden."""
    silence = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(silence, standard)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != kept:
            with suppress(OSError):
                os.close(int(name))
