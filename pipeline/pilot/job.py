"""One attempt at one job, from the assignment to the report: stage in, run, watch, stage out."""

import glob
import os
import re
import signal
import threading
from typing import Any, Callable, Dict, List, NamedTuple, Tuple

from pipeline.pilot import archive, limits, processes, sandbox, transfer
from pipeline.pilot.client import Backoff
from pipeline.pilot.errors import ApiError, AttemptError, InfrastructureFailed, PayloadFailed, Stopped, Unreachable
from pipeline.pilot.execution import SCRATCH, Execution, Node
from pipeline.pilot.folders import Folders, Key
from pipeline.pilot.log import log
from pipeline.pilot.sandbox import Sandboxes

GRACE = 5.0
_STORE_TRIES = 3
_TAIL_LINES = 20
_TAIL_BYTES = 16_384
_REASON_LIMIT = 1000
_MINOR = {"kill": "killed", "pilot": "pilot_stopped"}
_OUTCOME = {"limit": "payload_failed", "pilot": "infrastructure_failed"}
_CORE_FILE = re.compile(r"core(\.\d+)?")


class Place(NamedTuple):
    """What all attempts of a pilot share."""

    folders: Folders
    sandboxes: Sandboxes
    archive_path: Callable[[Key], str]
    node: Node


class Job:
    """`run` belongs to the job's own thread; everything else may be called from any."""

    def __init__(self, assignment: Dict[str, Any], place: Place) -> None:
        self.assignment = assignment
        self.key = (int(assignment["job_id"]), int(assignment["attempt"]))
        self.phase = "assigned"
        self.devices: Tuple[str, ...] = ()
        self._place = place
        self._folder = place.folders.job(self.key)
        self._logs = place.folders.log(self.key)
        self._execution = Execution(assignment, (self._folder, self._logs), place.node)
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._why = ""
        self._reason = ""
        self._minor = ""

    def reference(self) -> Dict[str, int]:
        """The `AttemptRef`."""
        return {"job_id": self.key[0], "attempt": self.key[1]}

    def held(self) -> Dict[str, Any]:
        """The `HeldJob` of a heartbeat."""
        return {**self.reference(), "phase": self.phase, **self._figures(), "tail": self._tail()}

    def superseded(self) -> bool:
        """Whether the attempt is another pilot's now: nothing may be said or kept of it."""
        return self._why == "superseded"

    def stop(self, why: str, reason: str, grace: float = GRACE, minor: str = "") -> None:
        """Stop it: `why` is kill, superseded, limit or pilot. Only `superseded` outranks an earlier why."""
        with self._lock:
            if self._why and (why != "superseded" or self.superseded()):
                return
            self._why, self._reason, self._minor = why, reason, minor or _MINOR.get(why, why)
        self._stopping.set()
        log("job_stopped", job_id=self.key[0], attempt=self.key[1], why=why, reason=reason)
        self._execution.stop(signal.SIGTERM if grace else signal.SIGKILL, grace)

    def watch(self, table: processes.Table) -> float:
        """Measure the payload, if it runs; stop it when it uses more than it was given. Seconds until the next look."""
        pause, breach = self._execution.watch(table)
        if breach is not None and not self._stopping.is_set():
            self.stop("limit", breach.reason, 0.0, breach.minor)  # in a time of grace it would go on to fill the node
        return pause

    def run(self) -> Dict[str, Any]:
        """The whole attempt; its `Report`. The archive lies at its place then. Never raises AttemptError or OSError."""
        outputs: List[Dict[str, Any]] = []
        reason, minor = "", ""
        try:
            self._stage_in()
            self._execution.fetch(self._check)
            self.phase = "running"
            self._execution.run(self.devices, self._check)
            outputs = self._stage_out()
            outcome = "succeeded"
        except PayloadFailed as error:
            outcome, reason, minor = "payload_failed", str(error), error.minor
        except Stopped:
            outcome, reason, minor = _OUTCOME.get(self._why, "killed"), self._reason, self._minor
        except AttemptError as error:
            outcome, reason, minor = "infrastructure_failed", str(error), error.minor
        except ApiError as error:
            outcome, reason, minor = "infrastructure_failed", str(error), "stage_in_failed"
        except OSError as error:
            outcome, reason, minor = "infrastructure_failed", str(error), "node_failed"
        if not self.superseded():
            self._pack()
        report = {
            **self.reference(),
            "outcome": outcome,
            "exit_code": self._execution.exit_code,
            "reason": _sayable(reason),
            **self._figures(),
            "outputs": outputs,
        }
        return {**report, "minor": minor} if minor else report

    def _figures(self) -> Dict[str, Any]:
        used = self._execution
        return {"wall_time": used.wall_time(), "cpu_time": used.cpu_time, "memory": used.memory}

    def _check(self) -> None:
        if self._stopping.is_set():
            raise Stopped(self._reason, self._minor)

    def _pause(self, seconds: float) -> None:
        self._stopping.wait(seconds)
        self._check()

    def _stage_in(self) -> None:
        self._check()
        self.phase = "staging"
        os.mkdir(self._folder, 0o700)
        os.mkdir(self._logs, 0o700)
        if self.assignment.get("sandbox"):
            path = self._fetch_sandbox(self.assignment["sandbox"])
            sandbox.unpack(path, self._folder, self.assignment["disk"] * limits.MIB)
        os.makedirs(os.path.join(self._folder, SCRATCH), exist_ok=True)
        for entry in self.assignment["inputs"]:
            self._fetch_input(entry)

    def _fetch_sandbox(self, sha256: str) -> str:
        """While the API is away the attempt waits: an outage costs none."""
        backoff = Backoff()
        while True:
            self._check()
            try:
                return self._place.sandboxes.fetch(sha256)
            except Unreachable as error:
                log("sandbox_delayed", job_id=self.key[0], attempt=self.key[1], error=str(error))
                self._pause(backoff.next(error.after))

    def _fetch_input(self, entry: Dict[str, Any]) -> None:
        target = self._inside(entry["name"])
        failures = []
        for url in entry["urls"]:
            self._check()
            try:
                return transfer.fetch(url, target, entry["size"], entry["adler32"], self._check)
            except transfer.TransferFailed as error:
                failures.append(str(error))
        why = "; ".join(failures) or "it has no replica"
        raise InfrastructureFailed("input {}: {}".format(entry["lfn"], why), "stage_in_failed")

    def _stage_out(self) -> List[Dict[str, Any]]:
        self.phase = "uploading"
        targets = self.assignment["outputs"]
        for target in targets:
            self._existing(target["name"])
        outputs = []
        for target in targets:
            copied = self._store(self._existing(target["name"]), target["url"])
            outputs.append({"name": target["name"], "url": target["url"], **copied._asdict()})
        return outputs

    def _store(self, source: str, url: str) -> transfer.Copied:
        backoff = Backoff(first=1.0)
        for _ in range(_STORE_TRIES - 1):
            try:
                return transfer.store(source, url, self._check)
            except transfer.TransferFailed as error:
                log("output_delayed", job_id=self.key[0], attempt=self.key[1], error=str(error))
                self._pause(backoff.next())
        try:
            return transfer.store(source, url, self._check)
        except transfer.TransferFailed as error:
            raise InfrastructureFailed("output {}".format(error), "stage_out_failed") from error

    def _existing(self, name: str) -> str:
        path = os.path.realpath(self._inside(name))
        if not path.startswith(os.path.realpath(self._folder) + os.sep) or not os.path.isfile(path):
            raise PayloadFailed("output {} is missing".format(name), "output_missing")
        return path

    def _inside(self, name: str) -> str:
        if "/" in name or name in ("", ".", ".."):
            words = "{!r} is no name of a file in the working directory".format(name)
            raise PayloadFailed(words, "name_invalid")
        return os.path.join(self._folder, name)

    def _pack(self) -> None:
        """An archive that can't be made is no reason to lose the report."""
        kept = {target["name"] for target in self.assignment["outputs"]}
        try:
            for path in glob.glob(os.path.join(glob.escape(self._folder), "core*")):
                name = os.path.basename(path)
                if _CORE_FILE.fullmatch(name) and name not in kept and os.path.isfile(path):
                    os.unlink(path)
            target = self._place.archive_path(self.key)
            archive.pack(target, self._logs, self._folder, self.assignment["archive"])
        except OSError as error:
            log("archive_failed", job_id=self.key[0], attempt=self.key[1], error=str(error))

    def _tail(self) -> str:
        """The last lines of whichever output was written to last."""
        paths = [path for path in self._execution.logs() if _written(path)]
        if not paths:
            return ""
        content = archive.last_bytes(max(paths, key=_written), _TAIL_BYTES).decode(errors="replace")
        return "".join(content.splitlines(True)[-_TAIL_LINES:])


def _written(path: str) -> float:
    """When a file was last written; 0 for one that is empty or gone."""
    try:
        status = os.stat(path)
    except OSError:
        return 0.0
    return status.st_mtime if status.st_size else 0.0


def _sayable(reason: str) -> str:
    """`reason` as a report may carry it: not too long, and without the stray bytes that file names may hold."""
    return reason.encode(errors="replace").decode()[:_REASON_LIMIT]
