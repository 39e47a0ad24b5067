"""`penstock-pilot.pyz relay`: carries calls between a spool folder and the API, on a gateway node that has both.

It knows no pilot and keeps nothing: any number of relays may serve one folder, and any may be killed at any time.
"""

import argparse
import http.client
import os
import re
import stat
import sys
import threading
import time
import urllib.error
import uuid
from typing import Any, Dict, List, Set

from pipeline.pilot import durable, spool
from pipeline.pilot.bell import Bell
from pipeline.pilot.errors import BadOptions
from pipeline.pilot.lines import HttpLine, line_to
from pipeline.pilot.log import log

_NAME = re.compile(r"[0-9a-f]{32}")
_ALLOWED = "/v1/pilots/"
_METHODS = ("GET", "POST", "PUT")
_PAUSE = 0.02
_LONGEST_PAUSE = 0.5
_SWEEP_EVERY = 10.0
_KEPT = 3600.0


def main(arguments: List[str]) -> int:
    """Serves until SIGTERM. 0: told to stop; 2: bad options."""
    options = _parser().parse_args(arguments)
    try:
        relay = Relay(options.spool, options.api_url, options.calls, Bell())
    except (BadOptions, OSError) as error:
        sys.stderr.write("penstock-pilot relay: {}\n".format(error))
        return 2
    log("relay_started", spool=options.spool, api_url=options.api_url)
    relay.run()
    log("relay_ended")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="penstock-pilot relay",
        description="Carries the calls of pilots that have no network from a spool folder of a shared file system to "
        "the API. Pilots are given --api-url spool:FOLDER. Run as many as you like, as the account of the pilots.",
    )
    parser.add_argument("--spool", required=True, help="the folder; it is made, for this account alone")
    parser.add_argument("--api-url", required=True, help="where the API is: http:// or https://")
    parser.add_argument("--calls", type=int, default=500, help="calls at a time at the most (default: 500)")
    return parser


class Relay:
    """Made with a folder of its own account; `run` serves until the bell notes a signal."""

    def __init__(self, folder: str, api_url: str, calls: int, bell: Bell) -> None:
        """Raises BadOptions, OSError."""
        line = line_to(api_url)
        if not isinstance(line, HttpLine):
            raise BadOptions("a relay needs the API's own URL, not {!r}".format(api_url))
        if calls < 1:
            raise BadOptions("--calls must be at least 1, not {}".format(calls))
        self._line = line
        self._folder = os.path.abspath(folder)
        _make(self._folder)
        self._mark = os.path.join(self._folder, "relay-" + uuid.uuid4().hex)
        self._room = threading.Semaphore(calls)
        self._bell = bell
        self._open: Set[str] = set()
        self._lock = threading.Lock()

    def run(self) -> None:
        """Serve. Calls that are out at the end are answered as failed, so that their pilots ask again at once."""
        pause, sweep_due = _PAUSE, 0.0
        while not self._bell.stop_asked:
            try:
                if time.monotonic() >= sweep_due:
                    sweep_due = time.monotonic() + _SWEEP_EVERY
                    self._sweep()
                busy = self._round()
            except OSError as error:
                log("spool_failed", error=str(error))
                busy = False
            pause = _PAUSE if busy else min(pause * 1.5, _LONGEST_PAUSE)
            self._bell.wait(pause)
        with self._lock:
            left, self._open = self._open, set()
        for name in left:
            self._reply(name, {"status": 0, "error": "the relay was stopped", "headers": {}}, None)
        durable.remove(self._mark)

    def _path(self, folder: str, name: str) -> str:
        return os.path.join(self._folder, folder, name)

    def _round(self) -> bool:
        """Claim what is there, as far as there is room; whether there was anything."""
        names = [name for name in os.listdir(self._path("requests", "")) if _NAME.fullmatch(name)]
        for name in names:
            if not self._room.acquire(blocking=False):
                break
            try:
                os.rename(self._path("requests", name), self._path("taken", name))
            except FileNotFoundError:
                self._room.release()  # another relay's, or its pilot has given up
                continue
            with self._lock:
                self._open.add(name)
            threading.Thread(target=self._serve, args=(name,), daemon=True).start()
        return bool(names)

    def _serve(self, name: str) -> None:
        try:
            self._carry(name)
        except (OSError, ValueError, KeyError, TypeError) as error:
            log("call_failed", error=str(error))
        finally:
            durable.remove(self._path("taken", name))
            self._room.release()

    def _carry(self, name: str) -> None:
        header, body = spool.read(self._path("taken", name))
        with body:
            if header["method"] not in _METHODS or not header["path"].startswith(_ALLOWED):
                self._answer(name, {"status": 0, "error": "a relay carries calls below /v1/pilots/ alone"}, None)
                return
            headers = {**header["headers"], "Content-Length": str(os.fstat(body.fileno()).st_size - body.tell())}
            try:
                sent = None if header["method"] == "GET" else body
                reply = self._line.open(header["method"], header["path"], headers, sent, float(header["timeout"]))
            except urllib.error.HTTPError as error:
                with error:
                    self._answer(name, {"status": error.code, "headers": dict(error.headers.items())}, error)
            except (OSError, http.client.HTTPException) as error:
                self._answer(name, {"status": 0, "error": str(error) or type(error).__name__}, None)
            else:
                with reply:
                    self._answer(name, {"status": reply.status, "headers": dict(reply.headers.items())}, reply)

    def _answer(self, name: str, header: Dict[str, Any], body: Any) -> None:
        with self._lock:
            is_open = name in self._open
            self._open.discard(name)
        if is_open:
            try:
                self._reply(name, header, body)
            except http.client.HTTPException as error:
                self._reply(name, {"status": 0, "error": str(error) or type(error).__name__}, None)

    def _reply(self, name: str, header: Dict[str, Any], body: Any) -> None:
        spool.write(self._path("replies", name), header, body)

    def _sweep(self) -> None:
        """Forget what nobody waits for. Ages are by the file system's clock, which the mark of this relay tells."""
        durable.write(self._mark, b"")
        now = os.stat(self._mark).st_mtime
        for name in os.listdir(self._path("requests", "")):
            path = self._path("requests", name)
            try:
                header, body = spool.read(path)
                body.close()
                patience = float(header["timeout"])
            except (ValueError, KeyError, TypeError):
                patience = _KEPT
            except OSError:
                continue
            _forget(path, now - patience)
        for folder in ("replies", "taken", ""):
            for name in os.listdir(self._path(folder, "")):
                if folder or name.startswith("relay-"):
                    _forget(self._path(folder, name), now - _KEPT)


def _forget(path: str, before: float) -> None:
    try:
        if os.stat(path).st_mtime < before:
            os.unlink(path)
    except FileNotFoundError:
        return


def _make(folder: str) -> None:
    for path in (folder, *(os.path.join(folder, name) for name in spool.FOLDERS)):
        os.makedirs(path, mode=0o700, exist_ok=True)
        status = os.stat(path)
        if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
            raise BadOptions(
                "{} must belong to this account and be open to it alone (chmod 700): tokens pass through it".format(
                    path
                )
            )
