"""Asking for jobs: offer the totals, confirm what came, begin what was accepted."""

import threading
import time
from typing import Any, Callable, Dict, FrozenSet, List, NamedTuple

from pipeline.pilot.client import TIMEOUT, Backoff, Client
from pipeline.pilot.errors import ApiError, Refused, Unreachable
from pipeline.pilot.folders import Key
from pipeline.pilot.job import Job, Place
from pipeline.pilot.ledger import Ledger
from pipeline.pilot.log import log
from pipeline.pilot.slots import Slots

_IDLE_WAIT = 10.0
_BUSY_WAIT = 3.0
_WITHOUT_GPUS = 600.0


class Orders(NamedTuple):
    """What the offers call: `begin` for each attempt to run, `drain` when the server wants no more.

    `time_left` tells the seconds until the pilot must have ended, `pace` the longest wait between two tries to
    reach the API: no longer than a heartbeat's, else an assignment could lapse while its pilot waits to confirm it.
    """

    begin: Callable[[Job], None]
    drain: Callable[[str], None]
    time_left: Callable[[], float]
    pace: float


class Offers:
    """`work` is one round of the offering thread; it raises Fenced."""

    def __init__(self, client: Client, slots: Slots, ledger: Ledger, place: Place, orders: Orders) -> None:
        self._client = client
        self._slots = slots
        self._ledger = ledger
        self._place = place
        self._orders = orders
        self._closed = threading.Event()
        self._trouble = Backoff(cap=orders.pace)
        self._quiet = Backoff(first=0.2, cap=_IDLE_WAIT)
        self._gpus_from = 0.0

    def close(self) -> None:
        """No more offers, and nothing more is begun."""
        self._closed.set()
        self._slots.changed.set()

    def work(self) -> None:
        """Offer once if there is room, else wait until there may be."""
        self._slots.changed.clear()
        if self._closed.is_set() or not self._slots.has_room():
            self._slots.changed.wait(1.0)
            return
        wait = _BUSY_WAIT if self._slots.held() else _IDLE_WAIT
        asked = time.monotonic()
        try:
            reply = self._client.post("/v1/pilots/self/offer", self._offer(wait), wait + TIMEOUT)
        except (Unreachable, Refused) as error:
            if self._keep_gpus_back(error):
                return
            seconds = self._trouble.next(getattr(error, "after", None))
            log("offer_failed", seconds=round(seconds, 1), error=str(error))
            self._closed.wait(seconds)
            return
        self._trouble.reset()
        if reply.get("drain"):
            self._orders.drain("drain was told")
        elif self._take(reply.get("assignments", ())):
            self._quiet.reset()
        else:
            # a server that does not wait must not be asked without pause
            self._closed.wait(min(self._quiet.next(), max(wait - (time.monotonic() - asked), 0.0)))

    def _offers_gpus(self) -> bool:
        return self._slots.totals.gpus > 0 and time.monotonic() >= self._gpus_from

    def _keep_gpus_back(self, error: ApiError) -> bool:
        """Whether an API of release 0.2.0 refused them: then the rest is offered, for a while. It may be replaced."""
        is_old = isinstance(error, Refused) and error.is_about_words and self._offers_gpus()
        if is_old:
            self._gpus_from = time.monotonic() + _WITHOUT_GPUS
            log("gpus_not_offered", gpus=self._slots.totals.gpus, error=str(error))
        return is_old

    def _offer(self, wait: float) -> Dict[str, Any]:
        totals = self._slots.totals._asdict()
        if not self._offers_gpus():
            del totals["gpus"]
        return {
            **totals,
            "time_left": max(self._orders.time_left(), 0.0),
            "jobs": [job.reference() for job in self._slots.held()],
            "wait": wait,
        }

    def _take(self, assignments: List[Dict[str, Any]]) -> bool:
        jobs = [Job(assignment, self._place) for assignment in assignments]
        fresh = [job for job in jobs if not self._ledger.knows(job.key) and self._slots.admit(job)]
        accepted = self._confirm(fresh) if fresh else frozenset()
        for job in fresh:
            if job.key in accepted and self._claim(job):
                self._orders.begin(job)
            else:
                self._slots.drop(job.key)
        return bool(fresh)

    def _confirm(self, jobs: List[Job]) -> FrozenSet[Key]:
        """Which of them may run. Tried again for as long as it takes: a confirmation that is too late is refused."""
        backoff = Backoff(cap=self._orders.pace)
        request = {"jobs": [job.reference() for job in jobs]}
        while not self._closed.is_set():
            try:
                verdict = self._client.post("/v1/pilots/self/start", request)
            except Unreachable as error:
                log("start_delayed", jobs=len(jobs), error=str(error))
                self._closed.wait(backoff.next(error.after))
            except Refused as error:
                log("start_refused", jobs=len(jobs), reason=str(error))
                break
            else:
                for refusal in verdict.get("refused", ()):
                    log("start_refused", job_id=refusal["job_id"], attempt=refusal["attempt"], reason=refusal["reason"])
                return frozenset((entry["job_id"], entry["attempt"]) for entry in verdict.get("accepted", ()))
        return frozenset()

    def _claim(self, job: Job) -> bool:
        try:
            claimed = self._ledger.claim(job.key)
        except OSError as error:
            # without the ledger nobody could tell that it was started: let the server give it to another pilot
            log("ledger_failed", job_id=job.key[0], attempt=job.key[1], error=str(error))
            return False
        if not claimed:
            log("job_ignored", job_id=job.key[0], attempt=job.key[1], reason="it was started before")
        return claimed
