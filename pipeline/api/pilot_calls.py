"""What pilots say all the time: offers, confirmations, heartbeats, reports; of one pilot, or of many at once.

A round of many knows its callers by their tokens' digests, in the transaction that does the work. Whom another
transaction holds waits for a later round; who is no live pilot makes the call by itself, which says what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from fastapi import FastAPI
from pydantic import BaseModel

from pipeline.api.assignments import assignments
from pipeline.api.gathering import HELD, Call, Gathering, Held
from pipeline.api.served_slots import ServedSlots
from pipeline.api.services import Services
from pipeline.errors import Conflict
from pipeline.store import attempts, heartbeats, offers, pilots
from pipeline.store.database import Transaction
from pipeline.store.losses import NOTHING, Aftermath, Rules, to_publish
from pipeline.store.pilots import PilotRow
from schemas.pilots import (
    HeartbeatReply,
    HeartbeatRequest,
    OfferReply,
    OfferRequest,
    ReportRequest,
    StartRequest,
    Verdict,
)

Q = TypeVar("Q", bound=BaseModel)
A = TypeVar("A")
Said = Sequence[tuple[PilotRow, Q]]

PERIOD = 0.05
"""Seconds between two rounds of calls for whose answer a pilot waits."""
BEATS_PERIOD = 0.2
"""The same for heartbeats."""

_TOLD = 10
"""Refused reports that an error names at the most."""


@dataclass(frozen=True, slots=True)
class Kind(Generic[Q, A]):
    """One kind of call. `work` answers locked pilots, each named once, in their order."""

    name: str
    work: Callable[[Transaction, Said[Q], Rules], tuple[Sequence[A], Aftermath]]
    rows: Callable[[Q], int]
    """About how many rows a call names."""
    period: float = PERIOD
    with_slots: bool = False
    """Whether `work` wants the pilots' slots locked, too."""
    check: Callable[[A], None] = lambda _: None
    """Raises what is wrong with an answer that may not leave as such."""


@dataclass(frozen=True, slots=True)
class Noted:
    """An offer that was noted. Without a reply, matching was asked and may assign something soon."""

    pilot_id: int
    reply: OfferReply | None


class PilotCalls:
    """Belongs to one application and its event loop."""

    def __init__(self, services: Services) -> None:
        self.served = ServedSlots(services.database, services.stopping)
        self._services = services
        self._gatherings: dict[str, Gathering[Any, Any]] = {}

    async def ask(self, kind: Kind[Q, A], token_digest: str, body: Q) -> A | None:
        """The answer, given together with others; None when the call must be made by itself. Raises as its kind's
        `check` does."""
        gathering = self._gatherings.get(kind.name)
        if gathering is None:
            answer = partial(_answer_all, self._services, kind)
            gathering = self._gatherings[kind.name] = Gathering(kind.name, answer, kind.period)
        answered: A | None = await gathering.ask(Call(token_digest, body, kind.rows(body)))
        if answered is not None:
            kind.check(answered)
        return answered


def pilot_calls(app: FastAPI) -> PilotCalls:
    """Those of an application, made by the first call, on the event loop's own thread."""
    if not hasattr(app.state, "pilot_calls"):
        app.state.pilot_calls = PilotCalls(app.state.services)
    found = app.state.pilot_calls
    assert isinstance(found, PilotCalls)
    return found


async def offer(calls: PilotCalls, token_digest: str, body: OfferRequest) -> OfferReply | None:
    """The reply to an offer, waited for if the pilot wishes; None when it must be made by itself."""
    noted = await calls.ask(OFFER, token_digest, body)
    if noted is None or noted.reply is not None:
        return None if noted is None else noted.reply
    if body.wait and not await calls.served.wait(noted.pilot_id, body.wait):
        return OfferReply()
    return await calls.ask(FETCH, token_digest, body)


def answer_one(services: Services, kind: Kind[Q, A], pilot_id: int, body: Q) -> A:
    """The answer to one pilot, however long another transaction holds it. Raises Unauthorized for one that ended, and
    as its kind's `check` does."""
    rules = Rules.of(services.settings)

    def work(tx: Transaction) -> tuple[Sequence[A], Aftermath]:
        pilot = pilots.lock(tx, pilot_id)
        if kind.with_slots:
            offers.lock_slot(tx, pilot_id)
        return kind.work(tx, [(pilot, body)], rules)

    answers, aftermath = services.database.transact(work)
    _publish(services, aftermath)
    kind.check(answers[0])
    return answers[0]


def _answer_all(services: Services, kind: Kind[Q, A], calls: Sequence[Call[Q]]) -> list[A | Held | None]:
    rules = Rules.of(services.settings)

    def work(tx: Transaction) -> tuple[Mapping[str, A | Held], Aftermath]:
        found, held = _callers(tx, kind, [call.caller for call in calls])
        known = [call for call in calls if call.caller in found]
        answers, aftermath = kind.work(tx, [(found[call.caller], call.said) for call in known], rules)
        given = {call.caller: answer for call, answer in zip(known, answers, strict=True)}
        return {**given, **dict.fromkeys(held, HELD)}, aftermath

    answers, aftermath = services.database.transact(work)
    _publish(services, aftermath)
    return [answers.get(call.caller) for call in calls]


def _callers(tx: Transaction, kind: Kind[Q, A], digests: Sequence[str]) -> tuple[Mapping[str, PilotRow], set[str]]:
    """The pilots that could be locked, by their tokens' digests, and the digests of those that others hold."""
    found = pilots.lock_callers(tx, digests)
    missing = [digest for digest in digests if digest not in found]
    held = pilots.live_callers(tx, missing) if missing else set()
    if kind.with_slots and found:
        free = offers.lock_free_slots(tx, [pilot.id for pilot in found.values()])
        held |= {digest for digest, pilot in found.items() if pilot.id not in free}
        found = {digest: pilot for digest, pilot in found.items() if pilot.id in free}
    return found, held


def _publish(services: Services, aftermath: Aftermath) -> None:
    services.publisher.publish(to_publish(services.database, aftermath))


def _offer(tx: Transaction, said: Said[OfferRequest], rules: Rules) -> tuple[list[Noted], Aftermath]:
    noted, messages = offers.offer_all(tx, said, rules)
    answered = [(pilot, one) for (pilot, _), one in zip(said, noted, strict=True) if one.assigned or one.drain]
    given = assignments(tx, [(pilot, one.assigned) for pilot, one in answered])
    replies = {
        pilot.id: OfferReply(assignments=mine, drain=one.drain)
        for (pilot, one), mine in zip(answered, given, strict=True)
    }
    return [Noted(pilot.id, replies.get(pilot.id)) for pilot, _ in said], Aftermath(tuple(messages))


def _fetch(tx: Transaction, said: Said[OfferRequest], rules: Rules) -> tuple[list[OfferReply], Aftermath]:
    found = offers.fetch_all(tx, {pilot.id: body.jobs for pilot, body in said})
    given = assignments(tx, [(pilot, found[pilot.id]) for pilot, _ in said])
    replies = [
        OfferReply(assignments=mine, drain=pilot.drains(rules)) for (pilot, _), mine in zip(said, given, strict=True)
    ]
    return replies, NOTHING


def _start(tx: Transaction, said: Said[StartRequest], rules: Rules) -> tuple[Sequence[Verdict], Aftermath]:
    rulings = attempts.start_all(tx, [(pilot, body.jobs) for pilot, body in said], rules)
    return rulings.verdicts, rulings.aftermath


def _report(tx: Transaction, said: Said[ReportRequest], rules: Rules) -> tuple[Sequence[Verdict], Aftermath]:
    rulings = attempts.report_all(tx, [(pilot, body.reports) for pilot, body in said], rules)
    return rulings.verdicts, rulings.aftermath


def _check_reports(verdict: Verdict) -> None:
    """Where none of them counts, their sender must stop, whatever it thinks that it holds. Raises Conflict."""
    if verdict.refused and not verdict.accepted:
        told = "; ".join(f"attempt {one.attempt} at job {one.job_id}: {one.reason}" for one in verdict.refused[:_TOLD])
        raise Conflict(f"{told}; stop these attempts and forget them")


OFFER = Kind("offer", _offer, lambda body: len(body.jobs) + 1, with_slots=True)
FETCH = Kind("fetch", _fetch, lambda body: body.cores, with_slots=True)
START = Kind("start", _start, lambda body: len(body.jobs))
REPORT = Kind("report", _report, lambda body: len(body.reports), check=_check_reports)
HEARTBEAT: Kind[HeartbeatRequest, HeartbeatReply] = Kind(
    "heartbeat", heartbeats.heartbeat_all, lambda body: len(body.jobs) + 1, BEATS_PERIOD
)
