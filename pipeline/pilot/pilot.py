"""The pilot at work: threads that offer, heart-beat, watch and report, and the main thread that decides the end."""

import random
import threading
import time
import traceback
from typing import Any, Callable, Dict, NamedTuple, Optional

from pipeline.pilot import containers, folders, limits, processes
from pipeline.pilot.bell import Bell
from pipeline.pilot.client import Backoff, Client
from pipeline.pilot.errors import ApiError, Fenced, Refused, Unreachable
from pipeline.pilot.execution import Node
from pipeline.pilot.job import GRACE, Job, Place
from pipeline.pilot.ledger import Ledger
from pipeline.pilot.log import log
from pipeline.pilot.node import Totals
from pipeline.pilot.offers import Offers, Orders
from pipeline.pilot.outbox import Outbox, Report
from pipeline.pilot.sandbox import Sandboxes
from pipeline.pilot.slots import Slots

_WATCH_SHARE, _HURRIED_SHARE = 20, 2
"""So many times as long as a look at all processes takes, none is taken; while something grows fast, so many times."""
_CHANCE = random.SystemRandom()
_STOP_GRACE = 2.0
_STOP_WITHIN = 8.0
_END_TIMEOUT = 3.0
_LEAST_ROOM = 60.0
_STOP_MARGIN = 15.0


class Terms(NamedTuple):
    """What was agreed at enrolment. Seconds; `deadline` is on the monotonic clock."""

    pilot_id: int
    heartbeat_interval: float
    lifetime: float
    deadline: float
    idle_limit: float
    max_failures: int


class Machine(NamedTuple):
    """What the pilot stands on; made before any thread."""

    totals: Totals
    folders: folders.Folders
    bell: Bell
    node: Node


class Pilot:
    """Made after enrolment; `run` returns the exit code."""

    def __init__(self, client: Client, terms: Terms, machine: Machine) -> None:
        self._client = client
        self._terms = terms
        self._machine = machine
        self._interval = terms.heartbeat_interval
        self._slots = Slots(machine.totals, machine.node.gpus.devices)
        self._ledger = Ledger(machine.folders.ledger, terms.pilot_id)
        pace = max(terms.heartbeat_interval, 0.1)
        self._outbox = Outbox(machine.folders, terms.pilot_id, client, self._settled, pace)
        sandboxes = Sandboxes(machine.folders.sandboxes, client)
        place = Place(machine.folders, sandboxes, self._outbox.archive_path, machine.node)
        orders = Orders(self._begin, self._drain, lambda: terms.deadline - time.monotonic(), pace)
        self._offers = Offers(client, self._slots, self._ledger, place, orders)
        self._failures = 0
        self._drain_reason = ""
        self._lost_reason = ""
        self._stop_by: Optional[float] = None
        self._look_in = 2 * limits.QUICK

    def run(self) -> int:
        """Work until there is a reason to end. 0 for an orderly end, 1 when the API sent the pilot away."""
        self._recover()
        for round_of in (self._offers.work, self._beat, self._watch, self._outbox.work):
            threading.Thread(target=self._repeat, args=(round_of,), daemon=True).start()
        while not self._over(time.monotonic()):
            self._machine.bell.wait(1.0)
        reason = self._lost_reason or self._drain_reason
        log("pilot_ended", reason=reason, unconfirmed=len(self._slots.held()))
        if self._lost_reason:
            for job in self._slots.held():
                job.stop("superseded", reason, 0.0)  # they belong to others now
            self._machine.node.warden.close()
            return 1
        self._say_goodbye(reason)
        folders.remove(self._machine.folders.sandboxes)
        containers.clear(self._machine.node.runtimes)
        self._machine.node.warden.close()
        return 0

    # the main thread

    def _over(self, now: float) -> bool:
        left = self._terms.deadline - now
        if self._lost_reason:
            return True
        if self._machine.bell.stop_asked:
            self._stop_all("pilot was stopped", now)
        elif left < min(_STOP_MARGIN, self._terms.lifetime * 0.1):
            self._stop_all("the pilot's lifetime ended", now)
        elif left < min(_LEAST_ROOM, self._terms.lifetime * 0.2):
            self._drain("lifetime leaves no room")
        elif self._failures >= self._terms.max_failures:
            self._drain("{} jobs in a row failed on this node".format(self._failures))
        elif self._slots.idle_time() > self._terms.idle_limit:
            self._drain("idle for {:g} s".format(self._terms.idle_limit))
        if self._stop_by is not None and now > self._stop_by:
            return True
        return bool(self._drain_reason) and not self._slots.held() and self._outbox.empty()

    def _drain(self, reason: str) -> None:
        """Take no more jobs, end when those at hand have ended; the first reason counts."""
        if not self._drain_reason:
            self._drain_reason = reason
            log("drain_started", reason=reason)
            self._offers.close()
            self._machine.bell.ring()

    def _stop_all(self, reason: str, now: float) -> None:
        if self._stop_by is None:
            self._stop_by = now + _STOP_WITHIN
            self._drain(reason)
            self._outbox.hurry()
            for job in self._slots.held():
                job.stop("pilot", reason, _STOP_GRACE)

    def _say_goodbye(self, reason: str) -> None:
        backoff = Backoff()
        for _ in range(1 if self._stop_by else 3):
            try:
                self._client.post("/v1/pilots/self/end", {"reason": reason}, _END_TIMEOUT)
            except Unreachable as error:
                log("end_delayed", error=str(error))
                self._machine.bell.wait(backoff.next())
            except ApiError as error:
                log("end_refused", error=str(error))
                return
            else:
                return

    def _recover(self) -> None:
        """What an earlier process of the same pilot left: send its reports, own up to what it could not end."""
        try:
            unsent = self._outbox.load()
            orphans = [key for key in self._ledger.orphans() if key not in unsent]
        except (OSError, ValueError, KeyError) as error:
            log("recovery_failed", error=str(error))
            return
        for job_id, attempt in orphans:
            log("orphan_found", job_id=job_id, attempt=attempt)
            reason = "the pilot was killed while it held the job"
            lost = {"outcome": "infrastructure_failed", "reason": reason, "minor": "lost"}
            self._outbox.add({"job_id": job_id, "attempt": attempt, **lost})

    # a thread of each job

    def _begin(self, job: Job) -> None:
        if self._stop_by is not None:
            job.stop("pilot", self._drain_reason, _STOP_GRACE)  # it was confirmed while all the others were stopped
        threading.Thread(target=self._attend, args=(job,), daemon=True).start()

    def _attend(self, job: Job) -> None:
        try:
            report = job.run()
        except Exception as error:  # noqa: BLE001 - whatever happened, the server must hear that the attempt has ended
            log("job_crashed", job_id=job.key[0], attempt=job.key[1], trace=traceback.format_exc())
            job.stop("pilot", "internal error of the pilot: {!r}".format(error))
            failed = {"outcome": "infrastructure_failed", "reason": repr(error)[:1000], "minor": "pilot_error"}
            report = {**job.reference(), **failed}
        job.phase = "ended"
        if job.superseded():
            self._forget(job)
            return
        log("job_ended", job_id=job.key[0], attempt=job.key[1], outcome=report["outcome"], reason=report["reason"])
        self._count(report)
        self._outbox.add(report)
        self._close(job)

    def _count(self, report: Report) -> None:
        """Failures of this node in a row: a success ends the row, a payload's own failure says nothing."""
        if report["outcome"] == "infrastructure_failed":
            self._failures += 1
        elif report["outcome"] == "succeeded":
            self._failures = 0

    def _forget(self, job: Job) -> None:
        self._outbox.forget(job.key)
        self._close(job)
        self._settled(job.key)

    def _close(self, job: Job) -> None:
        try:
            self._ledger.close(job.key)
        except OSError as error:
            log("ledger_failed", job_id=job.key[0], attempt=job.key[1], error=str(error))

    def _settled(self, key: folders.Key) -> None:
        """The API has answered for the attempt: nothing of it needs to be kept."""
        self._machine.folders.clear(key)
        self._slots.drop(key)
        self._machine.bell.ring()

    # the other threads

    def _repeat(self, round_of: Callable[[], None]) -> None:
        try:
            while not self._lost_reason:
                round_of()
        except Fenced as error:
            self._lose("the API sent the pilot away: {}".format(error))
        except Exception as error:  # noqa: BLE001 - a pilot without one of its threads must end, not linger
            log("thread_failed", trace=traceback.format_exc())
            self._lose("internal error: {!r}".format(error))

    def _lose(self, reason: str) -> None:
        self._lost_reason = self._lost_reason or reason
        self._machine.bell.ring()

    def _watch(self) -> None:
        time.sleep(self._look_in)
        self._look_in = 2 * limits.QUICK
        running = [job for job in self._slots.held() if job.phase == "running"]
        if running:
            began = time.monotonic()
            table = processes.table()
            took = time.monotonic() - began
            wanted = min(job.watch(table) for job in running)
            self._look_in = max(wanted, took * (_HURRIED_SHARE if wanted <= limits.QUICK else _WATCH_SHARE))

    def _beat(self) -> None:
        # jitter keeps thousands of pilots that were started together from beating together
        time.sleep(max(self._interval * _CHANCE.uniform(0.9, 1.0), 0.1))
        backoff = Backoff(cap=max(self._interval, 0.1))
        while not self._lost_reason:
            try:
                reply = self._client.post(
                    "/v1/pilots/self/heartbeat", {"jobs": [job.held() for job in self._slots.held()]}
                )
            except (Unreachable, Refused) as error:
                log("heartbeat_failed", error=str(error))
                time.sleep(backoff.next(getattr(error, "after", None)))
            else:
                self._heed(reply)
                return

    def _heed(self, reply: Dict[str, Any]) -> None:
        self._interval = reply["heartbeat_interval"]
        if reply.get("drain"):
            self._drain("drain was told")
        for stop in reply.get("stop", ()):
            job = self._slots.find((stop["job_id"], stop["attempt"]))
            if job is not None:
                job.stop(stop["why"], "killed on request" if stop["why"] == "kill" else "superseded", GRACE)
                if job.phase == "ended" and job.superseded():
                    self._forget(job)
