"""The API as a pilot sees it: JSON and files over HTTP, and how long to wait before trying again."""

import hashlib
import http.client
import json
import os
import random
import urllib.error
from contextlib import contextmanager
from typing import Any, Dict, FrozenSet, Iterator, Optional, Union

from pipeline.pilot import durable
from pipeline.pilot.errors import Fenced, Refused, Unreachable
from pipeline.pilot.lines import line_to
from pipeline.pilot.spool import Body

_CHANCE = random.SystemRandom()
TIMEOUT = 30.0
FILE_TIMEOUT = 300.0
_CHUNK = 1 << 20
_FENCING = frozenset({401, 403, 426})
_FILE_FENCING = _FENCING - {403}  # that one is about the file, not about the pilot
_PASSING = frozenset({408, 425, 429})


class Backoff:
    """Exponential waits with jitter, so that pilots do not come back all at once after an outage. Seconds."""

    def __init__(self, first: float = 0.5, cap: float = 60.0) -> None:
        self._first = first
        self._next = first
        self.cap = cap

    def next(self, at_least: Optional[float] = None) -> float:
        """The next wait; never shorter than what the server asked for."""
        wait = min(self._next, self.cap) * _CHANCE.uniform(0.5, 1.0)
        self._next = min(self._next * 2, self.cap)
        return max(wait, at_least or 0.0)

    def reset(self) -> None:
        self._next = self._first


class Client:
    """Calls below `api_url`. Raises Unreachable, Refused or Fenced; BadOptions for a URL that makes no sense."""

    def __init__(self, api_url: str) -> None:
        self._line = line_to(api_url)
        self._token = ""

    def authorise(self, token: str) -> None:
        """Use `token` from now on; it is kept in memory only."""
        self._token = token

    def post(self, path: str, body: Dict[str, Any], timeout: float = TIMEOUT) -> Dict[str, Any]:
        """The JSON object that the API answers with; an empty answer is an empty object."""
        headers = {"Content-Type": "application/json"}
        with _translated(path, _FENCING):
            with self._open("POST", path, json.dumps(body).encode(), headers, timeout) as reply:
                content = reply.read()
            answer = json.loads(content.decode()) if content.strip() else {}
            if not isinstance(answer, dict):
                raise TypeError("the answer is no JSON object")
        return answer

    def upload(self, path: str, file: str) -> None:
        """PUT the content of `file`. Raises OSError too, when the file itself can't be read."""
        with open(file, "rb") as stream:
            headers = {"Content-Type": "application/gzip", "Content-Length": str(os.fstat(stream.fileno()).st_size)}
            with _translated(path), self._open("PUT", path, stream, headers, FILE_TIMEOUT) as reply:
                reply.read()

    def download(self, path: str, target: str, sha256: str) -> None:
        """GET into `target`. Raises Unreachable when the content is not what the checksum promises; OSError."""
        digest = hashlib.sha256()
        with durable.replacing(target) as stream:
            with _translated(path):
                reply = self._open("GET", path, None, {}, FILE_TIMEOUT)
            with reply:
                for chunk in iter(lambda: _next_chunk(path, reply), b""):
                    digest.update(chunk)
                    stream.write(chunk)
            if digest.hexdigest() != sha256:
                raise Unreachable("{}: came with sha256 {}".format(path, digest.hexdigest()))

    def _open(self, method: str, path: str, body: Optional[Body], headers: Dict[str, str], timeout: float) -> Any:
        if self._token:
            headers = {**headers, "Authorization": "Bearer " + self._token}
        return self._line.open(method, path, headers, body, timeout)


def _next_chunk(path: str, reply: Any) -> bytes:
    # translated apart from the writing: a full disk is not an API out of reach
    with _translated(path):
        chunk: bytes = reply.read(_CHUNK)
    return chunk


@contextmanager
def _translated(path: str, fencing: FrozenSet[int] = _FILE_FENCING) -> Iterator[None]:
    """Turns what urllib raises, and answers that are no JSON, into our three errors."""
    try:
        yield
    except urllib.error.HTTPError as error:
        with error:
            raise _from_status(path, error, fencing) from error
    except (OSError, http.client.HTTPException, ValueError, TypeError) as error:
        raise Unreachable("{}: {}".format(path, error or type(error).__name__)) from error


def _from_status(
    path: str, error: urllib.error.HTTPError, fencing: FrozenSet[int]
) -> Union[Unreachable, Refused, Fenced]:
    message = "{}: HTTP {} {}".format(path, error.code, _detail(error)).strip()
    if error.code in fencing:
        return Fenced(message)
    if error.code >= 500 or error.code in _PASSING or error.code < 400:
        after = error.headers.get("Retry-After", "") if error.headers else ""
        return Unreachable(message, float(after) if after.isdigit() else None)
    return Refused(message, error.code)


def _detail(error: urllib.error.HTTPError) -> str:
    """What a problem+json answer says, or nothing."""
    try:
        problem = json.loads(error.read(65536).decode())
    except (OSError, ValueError, http.client.HTTPException):
        return ""
    if not isinstance(problem, dict):
        return ""
    return str(problem.get("detail") or problem.get("title") or "")[:300]
