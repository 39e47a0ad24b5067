"""The attempts at hand and the room that they leave."""

import threading
import time
from typing import Dict, List, Optional, Sequence

from pipeline.pilot.folders import Key
from pipeline.pilot.job import Job
from pipeline.pilot.node import Totals


class Slots:
    """Safe for threads. An attempt stays until the API has confirmed its end: so the server counts, too."""

    def __init__(self, totals: Totals, devices: Sequence[str] = ()) -> None:
        self.totals = totals
        self._devices = devices
        self.changed = threading.Event()
        self._lock = threading.Lock()
        self._jobs: Dict[Key, Job] = {}
        self._idle_since = time.monotonic()

    def admit(self, job: Job) -> bool:
        """Take up an assignment, and give it GPUs that no other attempt can be using; False if it is a repeated one."""
        with self._lock:
            if job.key in self._jobs:
                return False
            # one that has ended has left its GPUs, though its report may not be answered yet: the API knows it sooner
            taken = {device for other in self._jobs.values() if other.phase != "ended" for device in other.devices}
            free = [device for device in self._devices if device not in taken]
            job.devices = tuple(free[: int(job.assignment.get("gpus", 0))])
            self._jobs[job.key] = job
            return True

    def drop(self, key: Key) -> None:
        """The attempt is no longer this pilot's."""
        with self._lock:
            if self._jobs.pop(key, None) is not None and not self._jobs:
                self._idle_since = time.monotonic()
        self.changed.set()

    def held(self) -> List[Job]:
        """All attempts at hand."""
        with self._lock:
            return list(self._jobs.values())

    def find(self, key: Key) -> Optional[Job]:
        with self._lock:
            return self._jobs.get(key)

    def idle_time(self) -> float:
        """Seconds since the last attempt was confirmed ended; 0 while there is any."""
        with self._lock:
            return 0.0 if self._jobs else time.monotonic() - self._idle_since

    def has_room(self) -> bool:
        """Whether at least the smallest job might still fit; that one wants no GPU."""
        with self._lock:
            wanted = [job.assignment for job in self._jobs.values()]
        return all(
            getattr(self.totals, name) > sum(int(assignment[name]) for assignment in wanted)
            for name in ("cores", "memory", "disk")
        )
