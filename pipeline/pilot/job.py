"""One attempt at one job, from the assignment to the report: stage in, run, watch, stage out."""

import glob
import os
import re
import threading
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from pipeline.pilot import archive, limits, processes, sandbox, transfer
from pipeline.pilot.client import Backoff
from pipeline.pilot.errors import ApiError, AttemptError, InfrastructureFailed, PayloadFailed, Stopped, Unreachable
from pipeline.pilot.folders import Folders, Key
from pipeline.pilot.gpus import Gpus
from pipeline.pilot.log import log
from pipeline.pilot.payload import End, Payload, environment
from pipeline.pilot.sandbox import Sandboxes
from pipeline.pilot.warden import Warden

GRACE = 5.0
_SCRATCH = ".tmp"
_STORE_TRIES = 3
_TAIL_LINES = 20
_TAIL_BYTES = 16_384
_REASON_LIMIT = 1000
_CORE_FILE = re.compile(r"core(\.\d+)?")


class Place(NamedTuple):
    """What all attempts of a pilot share."""

    folders: Folders
    sandboxes: Sandboxes
    warden: Warden
    archive_path: Callable[[Key], str]
    gpus: Gpus


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
        self._limits = limits.Limits(assignment["wall_time"], assignment["memory"], assignment["disk"])
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._why = ""
        self._reason = ""
        self._payload: Optional[Payload] = None
        self._gauge: Optional[limits.Gauge] = None
        self._wall_time = 0.0
        self._cpu_time = 0.0
        self._memory = 0
        self._exit_code: Optional[int] = None

    def reference(self) -> Dict[str, int]:
        """The `AttemptRef`."""
        return {"job_id": self.key[0], "attempt": self.key[1]}

    def held(self) -> Dict[str, Any]:
        """The `HeldJob` of a heartbeat."""
        gauge = self._gauge
        figures = {"phase": self.phase, "cpu_time": self._cpu_time, "memory": self._memory, "tail": self._tail()}
        figures["wall_time"] = gauge.wall_time() if gauge else self._wall_time
        return {**self.reference(), **figures}

    def superseded(self) -> bool:
        """Whether the attempt is another pilot's now: nothing may be said or kept of it."""
        return self._why == "superseded"

    def stop(self, why: str, reason: str, grace: float = GRACE) -> None:
        """Stop it: `why` is kill, superseded, limit or pilot. Only `superseded` outranks an earlier why."""
        with self._lock:
            if self._why and (why != "superseded" or self.superseded()):
                return
            self._why, self._reason = why, reason
            payload = self._payload
        self._stopping.set()
        log("job_stopped", job_id=self.key[0], attempt=self.key[1], why=why, reason=reason)
        if payload is not None:
            payload.stop(grace)

    def watch(self, table: processes.Table) -> None:
        """Measure the payload, if it runs; stop it when it uses more than it was given."""
        gauge = self._gauge
        if gauge is None:
            return
        usage = gauge.read(table)
        self._cpu_time = max(self._cpu_time, usage.cpu_time)
        self._memory = max(self._memory, usage.memory)
        exceeded = limits.breach(self._limits, usage)
        if exceeded and not self._stopping.is_set():
            self.stop("limit", exceeded)

    def run(self) -> Dict[str, Any]:
        """The whole attempt; its `Report`. The archive lies at its place then. Never raises AttemptError or OSError."""
        outputs: List[Dict[str, Any]] = []
        try:
            self._stage_in()
            self._execute()
            outputs = self._stage_out()
            outcome, reason = "succeeded", ""
        except PayloadFailed as error:
            outcome, reason = "payload_failed", str(error)
        except Stopped:
            outcome, reason = self._stopped_outcome()
        except (AttemptError, ApiError, OSError) as error:
            outcome, reason = "infrastructure_failed", str(error)
        if not self.superseded():
            self._pack()
        return {
            **self.reference(),
            "outcome": outcome,
            "exit_code": self._exit_code,
            "reason": _sayable(reason),
            "wall_time": self._wall_time,
            "cpu_time": self._cpu_time,
            "memory": self._memory,
            "outputs": outputs,
        }

    def _stopped_outcome(self) -> Tuple[str, str]:
        outcome = {"limit": "payload_failed", "pilot": "infrastructure_failed"}.get(self._why, "killed")
        return outcome, self._reason

    def _check(self) -> None:
        if self._stopping.is_set():
            raise Stopped(self._reason)

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
            sandbox.unpack(path, self._folder, self._limits.disk * limits.MIB)
        os.makedirs(os.path.join(self._folder, _SCRATCH), exist_ok=True)
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
        raise InfrastructureFailed("input {}: {}".format(entry["lfn"], "; ".join(failures) or "it has no replica"))

    def _execute(self) -> None:
        wanted = int(self.assignment.get("gpus", 0))
        if len(self.devices) < wanted:
            raise InfrastructureFailed("wants {} GPUs, {} are free on this node".format(wanted, len(self.devices)))
        visible = self._place.gpus.environment(self.devices)
        variables = environment(self.assignment, self._folder, os.path.join(self._folder, _SCRATCH), visible)
        with self._lock:
            self._check()
            payload = Payload(self.assignment["command"], variables, self._folder, self._logs, self._place.warden)
            self._payload = payload
            self._gauge = limits.Gauge(payload.session, (self._folder, self._logs), self._limits.memory)
        self.phase = "running"
        log("payload_started", job_id=self.key[0], attempt=self.key[1], pid=payload.session)
        end = payload.wait()
        self._settle(end)
        self._check()
        if end.exit_code != 0:
            raise PayloadFailed(end.reason)

    def _settle(self, end: End) -> None:
        gauge = self._gauge
        self._wall_time = gauge.wall_time() if gauge else 0.0
        self._gauge = None
        self._exit_code = end.exit_code
        self._cpu_time = max(self._cpu_time, end.cpu_time)
        self._memory = max(self._memory, end.memory)
        log("payload_ended", job_id=self.key[0], attempt=self.key[1], exit_code=end.exit_code)

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
            raise InfrastructureFailed("output {}".format(error)) from error

    def _existing(self, name: str) -> str:
        path = os.path.realpath(self._inside(name))
        if not path.startswith(os.path.realpath(self._folder) + os.sep) or not os.path.isfile(path):
            raise PayloadFailed("output {} is missing".format(name))
        return path

    def _inside(self, name: str) -> str:
        if "/" in name or name in ("", ".", ".."):
            raise PayloadFailed("{!r} is no name of a file in the working directory".format(name))
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
        paths = [path for path in (os.path.join(self._logs, name) for name in archive.LOGS) if _written(path)]
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
