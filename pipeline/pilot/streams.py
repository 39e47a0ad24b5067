"""What a payload writes to its standard output and error: its head and its tail on disk, however much it is."""

import fcntl
import os
from contextlib import suppress

LIMIT = 1 << 20
"""Bytes of one stream that are kept in the end."""
MOST = 4 * LIMIT
"""Bytes on disk from which the middle is cut out."""
_HEAD = LIMIT // 4
_LONGEST_MARK = 128
_TAIL = LIMIT - _HEAD - _LONGEST_MARK
_CHUNK = 1 << 18
_F_SETPIPE_SZ = 1031


class Stream:
    """A pipe that the payload writes to, and the file that keeps what comes out of it.

    The payload never waits for a full disk, and is not told of one: what can't be written is dropped.
    """

    def __init__(self, path: str) -> None:
        """Raises OSError."""
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        with suppress(OSError):  # fewer wake-ups for those that write much
            fcntl.fcntl(self.reader, _F_SETPIPE_SZ, 1 << 20)
        self._received = 0
        self._size = 0

    def started(self) -> None:
        """The payload has its end; ours is closed, since it would keep the pipe open."""
        os.close(self.writer)

    def copy(self) -> bool:
        """Take what is there now; False when nobody can write any more, or nothing is there."""
        try:
            content = os.read(self.reader, _CHUNK)
        except BlockingIOError:
            return False
        self._received += len(content)
        with suppress(OSError):
            self._size += os.pwrite(self._file, content, self._size)
            if self._size > MOST:
                self._cut()
        return bool(content)

    def finish(self) -> None:
        """Take the rest, once all that wrote have ended, and leave no more than LIMIT bytes."""
        while self.copy():
            continue
        with suppress(OSError):
            if self._size > LIMIT:
                self._cut()
        os.close(self.reader)
        os.close(self._file)

    def _cut(self) -> None:
        """Head, a line that says how much is missing, tail."""
        tail = os.pread(self._file, _TAIL, self._size - _TAIL)
        mark = "\n[penstock: {} bytes are left out here]\n".format(self._received - _HEAD - len(tail)).encode()
        self._size = _HEAD
        self._size += os.pwrite(self._file, mark + tail, _HEAD)
        os.ftruncate(self._file, self._size)
