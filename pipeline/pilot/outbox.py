"""Reports of ended attempts: on disk until the API has answered for each, however long it is away."""

import json
import os
import threading
from typing import Any, Callable, Dict, List, Set

from pipeline.pilot import durable
from pipeline.pilot.client import Backoff, Client
from pipeline.pilot.errors import Refused, Unreachable
from pipeline.pilot.folders import Folders, Key
from pipeline.pilot.log import log

Report = Dict[str, Any]
_BATCH = 100


class Outbox:
    """Sends archives and then reports. `settled` is called with each attempt that the API accepted or refused."""

    def __init__(
        self, folders: Folders, pilot_id: int, client: Client, settled: Callable[[Key], None], pace: float
    ) -> None:
        """`pace` is the longest wait between two tries, seconds."""
        self._reports = folders.reports
        self._archives = folders.archives
        self._pilot_id = pilot_id
        self._client = client
        self._settled = settled
        self._lock = threading.Lock()
        self._pending: Dict[Key, Report] = {}
        self._news = threading.Event()
        self._backoff = Backoff(cap=pace)

    def archive_path(self, key: Key) -> str:
        """Where the attempt's archive is to be written before its report is added."""
        return os.path.join(self._archives, "{}-{}.tar.gz".format(*key))

    def empty(self) -> bool:
        """Whether every report was answered."""
        with self._lock:
            return not self._pending

    def load(self) -> Set[Key]:
        """Take up what an earlier process of this pilot left unsent. Raises OSError."""
        for name in sorted(os.listdir(self._reports)):
            if not name.endswith(".json"):
                continue
            with open(os.path.join(self._reports, name), encoding="utf-8") as stream:
                entry = json.load(stream)
            if entry["pilot_id"] == self._pilot_id:
                self._pending[_key(entry["report"])] = entry["report"]
        if self._pending:
            self._news.set()
        return set(self._pending)

    def add(self, report: Report) -> None:
        """Keep `report` and send it soon. A full disk is no reason to lose it: it then stays in memory alone."""
        key = _key(report)
        try:
            durable.write(self._path(key), json.dumps({"pilot_id": self._pilot_id, "report": report}).encode())
        except OSError as error:
            log("report_kept_in_memory", job_id=key[0], attempt=key[1], error=str(error))
        with self._lock:
            self._pending[key] = report
        self._news.set()

    def forget(self, key: Key) -> None:
        """The attempt is another pilot's now: send nothing of it."""
        with self._lock:
            self._pending.pop(key, None)
        durable.remove(self.archive_path(key))
        durable.remove(self._path(key))

    def hurry(self) -> None:
        """The pilot is ending: try often."""
        self._backoff.cap = 0.5
        self._backoff.reset()
        self._news.set()

    def work(self) -> None:
        """One round: wait for news, or for the back-off's time, then send all that is there. Raises Fenced."""
        self._news.wait()
        self._news.clear()
        try:
            with self._lock:
                waiting = sorted(self._pending)
            for start in range(0, len(waiting), _BATCH):
                self._send(waiting[start : start + _BATCH])
        except Unreachable as error:
            wait = self._backoff.next(error.after)
            log("report_delayed", waiting=len(waiting), seconds=round(wait, 1), error=str(error))
            self._news.wait(wait)
            self._news.set()
        else:
            self._backoff.reset()

    def _send(self, keys: List[Key]) -> None:
        for key in keys:
            self._upload(key)
        with self._lock:
            reports = [self._pending[key] for key in keys if key in self._pending]
        if not reports:
            return
        try:
            self._post(reports)
        except Refused as error:
            if error.is_about_words and self._drop_minor(keys):
                self._send(keys)
                return
            if len(reports) > 1:
                for key in keys:
                    self._send([key])
                return
            log("report_refused", job_id=keys[0][0], attempt=keys[0][1], reason=str(error))
            self._close(keys[0])

    def _drop_minor(self, keys: List[Key]) -> bool:
        """Whether these reports say what an API of release 0.3.0 does not know; they do not any more."""
        with self._lock:
            dropped = [self._pending[key].pop("minor", None) for key in keys if key in self._pending]
        return any(dropped)

    def _post(self, reports: List[Report]) -> None:
        verdict = self._client.post("/v1/pilots/self/report", {"reports": reports})
        for refusal in verdict.get("refused", ()):
            log("report_refused", job_id=refusal["job_id"], attempt=refusal["attempt"], reason=refusal.get("reason"))
        answered = {_key(entry) for entry in (*verdict.get("accepted", ()), *verdict.get("refused", ()))}
        unanswered = 0
        for key in map(_key, reports):
            if key in answered:
                self._close(key)
            else:
                unanswered += 1
        if unanswered:
            raise Unreachable("{} reports were neither accepted nor refused".format(unanswered))

    def _upload(self, key: Key) -> None:
        path = self.archive_path(key)
        try:
            self._client.upload("/v1/pilots/self/archives/{}/{}".format(*key), path)
        except FileNotFoundError:
            return  # uploaded in an earlier round, or could not be made
        except (Refused, OSError) as error:
            log("archive_dropped", job_id=key[0], attempt=key[1], error=str(error))
        durable.remove(path)

    def _close(self, key: Key) -> None:
        with self._lock:
            known = self._pending.pop(key, None)
        durable.remove(self._path(key))
        if known is not None:
            self._settled(key)

    def _path(self, key: Key) -> str:
        return os.path.join(self._reports, "{}-{}.json".format(*key))


def _key(entry: Dict[str, Any]) -> Key:
    return int(entry["job_id"]), int(entry["attempt"])
