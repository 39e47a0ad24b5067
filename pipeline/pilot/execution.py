"""The payload of one attempt: its command with its limits, inside an image or not, and what its end means."""

import os
import signal
import threading
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from pipeline.pilot import cgroups, containers, limits, processes
from pipeline.pilot.archive import LOGS, last_bytes
from pipeline.pilot.errors import InfrastructureFailed, PayloadFailed
from pipeline.pilot.folders import Key
from pipeline.pilot.gpus import Gpus
from pipeline.pilot.guardian import Order
from pipeline.pilot.limits import Breach, Usage
from pipeline.pilot.log import log
from pipeline.pilot.payload import End, Payload, environment
from pipeline.pilot.warden import Warden

SCRATCH = ".tmp"
_WALL_TIME = "wall_time_limit"
_STOP_SHARE = 0.05
_STOP_MOST = 60.0
_ERRORS_TAIL = 4096
_PATIENCE = 5.0
_NOT_YET = 2 * limits.QUICK
_NOTHING_YET = Usage(0.0, 0.0, 0, 0, 0)


class Node(NamedTuple):
    """What payloads are run with."""

    warden: Warden
    gpus: Gpus
    runtimes: Tuple[containers.Runtime, ...]


class Execution:
    """`fetch` and `run` belong to the job's own thread, the rest to any."""

    def __init__(self, assignment: Dict[str, Any], folders: Tuple[str, str], node: Node) -> None:
        """`folders`: the job's own, and the one of its output."""
        self.exit_code: Optional[int] = None
        self.cpu_time = 0.0
        self.memory = 0
        self._assignment = assignment
        self._key: Key = (int(assignment["job_id"]), int(assignment["attempt"]))
        self._folders = folders
        self._node = node
        self._cores = int(assignment["cores"])
        self._limits = limits.Limits(
            float(assignment["wall_time"]), assignment["memory"], assignment["disk"], limits.most_tasks(self._cores)
        )
        self._stop_signal, self._stop_at = _stop_rule(assignment)
        self._image = str(assignment.get("image") or "")
        self._runtime: Optional[containers.Runtime] = None
        self._lock = threading.Lock()
        self._payload: Optional[Payload] = None
        self._gauge: Optional[limits.Gauge] = None
        self._usage = _NOTHING_YET
        self._wall_time = 0.0
        self._warned = ""

    def wall_time(self) -> float:
        """Seconds that it has run."""
        gauge = self._gauge
        return gauge.wall_time() if gauge else self._wall_time

    def fetch(self, check: Callable[[], None]) -> None:
        """Make sure that its image is there, if it has one. Raises AttemptError."""
        if self._image:
            self._runtime = containers.choose(self._node.runtimes, self._image)
            self._image = containers.fetch(self._runtime, self._image, check)

    def run(self, devices: Tuple[str, ...], check: Callable[[], None]) -> None:
        """Run it to the end of all that it starts. `check` raises when it was told to stop. Raises AttemptError."""
        wanted = int(self._assignment.get("gpus", 0))
        if len(devices) < wanted:
            words = "wants {} GPUs, {} are free on this node".format(wanted, len(devices))
            raise InfrastructureFailed(words, "gpus_missing")
        run = self._command(devices)
        group = self._group()
        leavings = self._folders
        size = (self._limits.disk + 1) * limits.MIB  # with a file that may grow no more it is over its disk limit
        order = Order(run.command, run.environment, leavings[0], self.logs(), size, group, run.cleanup, leavings)
        try:
            with self._lock:
                check()
                gauge = limits.Gauge(leavings, self._limits, group, self._node.warden.nest)
                self._payload = payload = Payload(order, self._node.warden)
                gauge.guardian = payload.guardian
                self._gauge = gauge
            log("payload_started", job_id=self._key[0], attempt=self._key[1], pid=payload.pid)
            end = payload.wait()
            self._settle(end, gauge)
        finally:
            self._gauge = None
            cgroups.end(group, _PATIENCE)  # it is gone already, unless its guardian was killed
        check()
        self._judge(end)

    def stop(self, number: signal.Signals, grace: float) -> None:
        """This signal now, SIGKILL after `grace` seconds. Nothing when it does not run."""
        with self._lock:
            if self._payload is not None:
                self._payload.stop(number, grace)

    def watch(self, table: processes.Table) -> Tuple[float, Optional[Breach]]:
        """Measure it; send its stop signal in time. Seconds until the next look, and the limit that it exceeds."""
        gauge = self._gauge
        if gauge is None:
            return _NOT_YET, None
        before, self._usage = self._usage, gauge.read(table)
        self.cpu_time = max(self.cpu_time, self._usage.cpu_time)
        self.memory = max(self.memory, self._usage.memory)
        breach = limits.breach(self._limits, self._usage)
        if breach is None and self._usage.wall_time >= self._stop_at and not self._warned:
            self._warn()
        if breach is not None and breach.minor == _WALL_TIME and self._warned:
            breach = Breach(_WALL_TIME, self._warned)
        until = self._limits.wall_time if self._warned else self._stop_at
        return limits.pause(self._limits._replace(wall_time=until), before, self._usage), breach

    def logs(self) -> List[str]:
        """Where its standard output and error are kept."""
        return [os.path.join(self._folders[1], name) for name in LOGS]

    def _warn(self) -> None:
        """Its time is almost over: it may end by itself until then, and has succeeded if it says so by its code."""
        left = max(self._limits.wall_time - self._usage.wall_time, 0.0)
        words = "wall-time limit: ran {:.0f} s of {:g} s when it was sent {}"
        self._warned = words.format(self._usage.wall_time, self._limits.wall_time, self._stop_signal.name)
        log("payload_warned", job_id=self._key[0], attempt=self._key[1], left=round(left, 1))
        self.stop(self._stop_signal, left)

    def _command(self, devices: Tuple[str, ...]) -> containers.Run:
        folder, given = self._folders[0], self._assignment["environment"]
        scratch = os.path.join(folder, SCRATCH)
        variables = environment(self._assignment, folder, scratch, self._node.gpus.environment(devices))
        command = tuple(self._assignment["command"])
        if self._runtime is None:
            return containers.Run(command, variables, ())
        if "PATH" not in given:
            del variables["PATH"]  # the image has its own
        shared = [path for path in containers.SHARED if os.path.isdir(path)]
        name = "penstock-{}-{}-{}".format(os.getpid(), *self._key)
        vendor = self._node.gpus.vendor if devices else ""
        inside = containers.Inside(self._image, command, variables, folder, (folder, *shared), scratch, name, vendor)
        return containers.command(self._runtime, inside)

    def _group(self) -> str:
        """A control group of its own, where the pilot may make one and it would stay there."""
        if self._runtime is not None and not self._runtime.joins_group:
            return ""
        wanted = cgroups.Limits(self._limits.memory, self._limits.tasks, self._cores)
        return self._node.warden.nest.group("job-{}-{}".format(*self._key), wanted)

    def _settle(self, end: End, gauge: limits.Gauge) -> None:
        self._wall_time = gauge.wall_time()
        self._usage = self._usage._replace(disk=gauge.disk())
        self.exit_code = end.exit_code
        self.cpu_time = max(self.cpu_time, end.cpu_time)
        self.memory = max(self.memory, end.memory)
        log("payload_ended", job_id=self._key[0], attempt=self._key[1], exit_code=end.exit_code)

    def _judge(self, end: End) -> None:
        """Whose fault its end is, if it was a bad one."""
        if end.exit_code == 0:
            return
        if self._warned:
            raise PayloadFailed(self._warned, _WALL_TIME)
        if self._runtime is not None:
            error = containers.failure(self._runtime, end.exit_code, last_bytes(self.logs()[1], _ERRORS_TAIL))
            if error is not None:
                raise error
        over = limits.breach(self._limits, self._usage)
        if over is not None and end.minor in ("exit_code", "signal"):
            raise PayloadFailed(over.reason, over.minor)
        raise PayloadFailed(end.reason, end.minor)


def _stop_rule(assignment: Dict[str, Any]) -> Tuple[signal.Signals, float]:
    """Which signal tells it that its time is almost over, and after how many seconds."""
    wall_time = float(assignment["wall_time"])
    grace = assignment.get("stop_grace")
    if grace is None:
        grace = min(_STOP_MOST, _STOP_SHARE * wall_time)
    number = getattr(signal, str(assignment.get("stop_signal") or "SIGTERM"), signal.SIGTERM)
    return signal.Signals(number), max(wall_time - float(grace), 0.0) if grace else float("inf")
