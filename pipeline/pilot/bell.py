"""What wakes the main thread: signals, and the other threads."""

import os
import select
import signal
import socket

_QUICK_EXIT = 1


class Bell:
    """Make it in the main thread. The first SIGTERM or SIGINT is noted, the second ends the process at once."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self.stop_asked = False
        # a handler may not take locks, so it rings through a descriptor that the main thread waits for
        signal.set_wakeup_fd(self._writer.fileno())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def ring(self) -> None:
        try:
            self._writer.send(b"\0")
        except BlockingIOError:
            return  # it is ringing already

    def wait(self, seconds: float) -> None:
        """Until it rings, at most `seconds`."""
        ready, _, _ = select.select([self._reader], [], [], seconds)
        if ready:
            self._reader.recv(4096)

    def _note(self, *_: object) -> None:
        if self.stop_asked:
            os._exit(_QUICK_EXIT)  # the warden ends a pilot's payloads
        self.stop_asked = True
