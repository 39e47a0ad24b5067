"""Calls as files in a folder of a shared file system, for worker nodes without any way out.

`requests/ID` is a call, `replies/ID` the answer to it: one line of JSON, then the body. Files appear whole, by a
rename. A relay claims a request by moving it to `taken/`, so that any number of relays may serve one folder. What goes
astray costs a time-out: every call of a pilot may be repeated.
"""

import email.message
import json
import os
import shutil
import time
import urllib.error
import uuid
from typing import IO, Any, Dict, Optional, Tuple, Union

from pipeline.pilot import durable

FOLDERS = ("requests", "replies", "taken")
Body = Union[bytes, IO[bytes]]
_SLACK = 5.0
_LONGEST_PAUSE = 0.5
_FIRST_PAUSE = 0.01
_MAX_HEADER = 65536


def write(path: str, header: Dict[str, Any], body: Optional[Body]) -> None:
    """Put one message at `path` in one step. Raises OSError."""
    with durable.replacing(path) as stream:
        os.chmod(stream.fileno(), 0o600)  # it carries the pilot's token
        stream.write(json.dumps(header).encode() + b"\n")
        if isinstance(body, bytes):
            stream.write(body)
        elif body is not None:
            shutil.copyfileobj(body, stream, 1 << 20)


def read(path: str) -> Tuple[Dict[str, Any], IO[bytes]]:
    """The header of the message at `path`, and its body, to be read and closed.

    Raises OSError; ValueError or TypeError for what is no message.
    """
    stream = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb")
    try:
        return dict(json.loads(stream.readline(_MAX_HEADER).decode())), stream
    except (ValueError, TypeError):
        stream.close()
        raise


class SpoolLine:
    """The pilot's end."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def open(self, method: str, path: str, headers: Dict[str, str], body: Optional[Body], timeout: float) -> IO[bytes]:
        """The reply, to be read and closed. Raises OSError when no relay answers in time, HTTPError as urllib does."""
        name = uuid.uuid4().hex
        request = os.path.join(self._folder, "requests", name)
        write(request, {"method": method, "path": path, "headers": headers, "timeout": timeout}, body)
        header, stream = self._await(name, request, timeout + _SLACK)
        if header["status"] == 0:
            with stream:
                raise OSError(header["error"])
        if header["status"] >= 400:
            told = email.message.Message()
            for field, value in header["headers"].items():
                told[field] = value
            raise urllib.error.HTTPError(path, header["status"], "", told, stream)
        return stream

    def _await(self, name: str, request: str, seconds: float) -> Tuple[Dict[str, Any], IO[bytes]]:
        reply = os.path.join(self._folder, "replies", name)
        deadline = time.monotonic() + seconds
        pause = _FIRST_PAUSE
        while True:
            found = self._take(reply)
            if found is not None:
                return found
            if time.monotonic() > deadline:
                durable.remove(request)
                raise OSError("no relay of {} answered within {:g} s".format(self._folder, seconds))
            time.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE)

    @staticmethod
    def _take(reply: str) -> Optional[Tuple[Dict[str, Any], IO[bytes]]]:
        try:
            found = read(reply)
        except FileNotFoundError:
            return None
        os.unlink(reply)  # what is open stays readable
        return found
