"""What a node would get now: one round of matching for it alone, of which nothing is carried out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, islice

from executors.matching.allowance import Allowance
from executors.matching.board import Board
from executors.matching.eligibility import Eligibility
from executors.matching.fair_share import Entitlements, Shares
from executors.matching.rounds import match
from executors.matching.terms import Match, Outcome, Rules, Slot, Terms
from pipeline.preview import Question
from pipeline.settings import Settings
from pipeline.store import limits, policies, usage
from pipeline.store.database import Transaction
from pipeline.store.jobs import JobRow
from pipeline.store.match_rows import Level, LimitRow, Place
from pipeline.store.preview_queries import Names, SiteNow, heads, jobs_of, names, site_now
from pipeline.store.waiting import next_level
from schemas.match_views import MatchedView, MatchView, PassedView, UnfitView
from schemas.requirements import fits, grant, room_of
from schemas.rooms import Grant, Room

MOST_REASONS = 100
"""Different reasons that are told."""


def preview(tx: Transaction, settings: Settings, question: Question) -> MatchView:
    """The jobs in the order in which an empty node would get them, what is passed over, what does not suit.

    Nothing is locked and nothing is kept. Raises NotFound for a site that is not declared.
    """
    resource = question.request.resource
    site = site_now(tx, question.vo_id, resource.site)
    place = Place(0, question.vo_id, site.id, 0, resource, 0, only_job_type=site.only_job_type)
    slot = Slot(place, room_of(resource), float(resource.wall_time))
    levels = heads(tx, question.vo_id)
    board = Board(Eligibility())
    board.replace_all(levels)
    known = limits.of(tx, [question.vo_id], [site.id])
    terms = _terms(tx, settings, question, Allowance(known, limits.rates(tx, [site.id]), tx.now))
    outcome = match([slot], board, terms, _Backlog(tx))
    round_ = _Round(place, slot.free, known, terms.allowance, outcome)
    called = names(tx, [*levels, *outcome.lower], [found.job for found in outcome.matches])
    return MatchView(
        site=resource.site,
        jobs=len(outcome.matches),
        cores=sum(found.grant.cores for found in outcome.matches),
        matched=tuple(_matched(outcome.matches, called)),
        passed=tuple(_passed(round_, [*levels, *outcome.lower], called)),
        unfit=tuple(_unfit(place, levels)),
        warnings=tuple(_warnings(resource.site, site)),
    )


@dataclass(slots=True)
class _Backlog:
    """The waiting jobs, looked at and left where they are."""

    tx: Transaction
    seen: Counter[tuple[int, int]] = field(default_factory=Counter)
    """The last job that was had of each level, by autocluster and priority."""

    def take(self, level: Level, most: int) -> Sequence[JobRow]:
        key = level.autocluster_id, level.priority
        found = jobs_of(self.tx, level, after=self.seen[key], most=most)
        if found:
            self.seen[key] = found[-1].id
        return found

    def after(self, level: Level) -> Level | None:
        return next_level(self.tx, level)


@dataclass(frozen=True, slots=True)
class _Round:
    """What a round came to; `room` is all of the node."""

    place: Place
    room: Room
    limits: Sequence[LimitRow]
    allowance: Allowance
    outcome: Outcome

    def left(self) -> Room:
        """What is free at the end."""
        room = self.room
        for found in self.outcome.matches:
            room = room.less(found.grant)
        return room


def _terms(tx: Transaction, settings: Settings, question: Question, allowance: Allowance) -> Terms:
    vo_id = question.vo_id
    entitlements = {
        vo: Entitlements(shares.groups, shares.owners) for vo, shares in policies.shares(tx, [vo_id]).items()
    }
    return Terms(
        shares=Shares(entitlements, usage.accounts(tx, [vo_id], settings.share_half_life)),
        allowance=allowance,
        nodes={},
        rules=Rules(
            wide_patience=settings.wide_patience,
            wide_reserve=settings.wide_reserve,
            longest_wait=settings.longest_wait,
            most=question.request.jobs,
        ),
        now=tx.now,
    )


def _matched(matches: Sequence[Match], called: Names) -> Iterator[MatchedView]:
    """Neighbours that are alike are told as one."""
    for (level, step_id, grant_, alternative), group in groupby(matches, key=_kind):
        alike = list(group)
        yield MatchedView(
            campaign_id=alike[0].job.campaign_id,
            step=called.steps[step_id],
            group=called.groups[level.group_id],
            owner=called.owners[level.owner_id],
            job_type=level.job_type,
            priority=level.priority,
            jobs=len(alike),
            first_job=alike[0].job.id,
            cores=grant_.cores,
            memory=grant_.memory,
            gpus=grant_.gpus,
            seconds=grant_.seconds,
            alternative=alternative if level.requirement.any_of else None,
        )


def _kind(found: Match) -> tuple[Level, int, Grant, int]:
    return replace(found.level, head_job_id=0, waiting_since=None), found.job.step_id, found.grant, found.alternative


def _suits(place: Place, level: Level) -> bool:
    return place.only_job_type in (None, level.job_type) and bool(fits(level.requirement, place.resource))


def _passed(round_: _Round, levels: Sequence[Level], called: Names) -> Iterator[PassedView]:
    """Levels of which the node would not get all jobs, those that are next in their owner's order first."""
    had = Counter((found.level.autocluster_id, found.level.priority) for found in round_.outcome.matches)
    heads_now = {(level.autocluster_id, level.priority): level for level in round_.outcome.heads}
    for level in sorted(levels, key=lambda one: (-one.priority, one.head_job_id)):
        key = level.autocluster_id, level.priority
        if key not in round_.outcome.drained and _suits(round_.place, level):
            yield PassedView(
                group=called.groups[level.group_id],
                owner=called.owners[level.owner_id],
                job_type=level.job_type,
                priority=level.priority,
                first_job=heads_now.get(key, level).head_job_id,
                reason=_why_passed(round_, level, had[key]),
            )


def _why_passed(round_: _Round, level: Level, had: int) -> str:
    place = round_.place
    more = "no more of them: " if had else ""
    ids = round_.allowance.limits_of(level, place)
    names_ = {
        limit.id: f"limit {limit.name}" if limit.selector.vo_id else "the site's limit" for limit in round_.limits
    }
    spent = round_.allowance.limits_spent()
    full = [
        limit.id
        for limit in round_.limits
        if limit.id in ids and limit.running + spent.get(limit.id, 0) >= limit.maximum
    ]
    if full:
        return f"{more}{' and '.join(names_[limit_id] for limit_id in full)} would be full"
    if round_.allowance.starts_left(place.site_id) <= 0:
        return f"{more}as many as may start at {place.resource.site} now would have started"
    left = round_.left()
    power, time_left = place.resource.power, float(place.resource.wall_time)
    if not any(grant(one, left, time_left, power) for one in level.requirement.specifications()):
        return f"{more}others come first, and no room is left for it"
    if round_.outcome.is_cut_short:
        return f"{more}the preview ends before it"
    return f"{more}others come first"


def _unfit(place: Place, levels: Sequence[Level]) -> Iterator[UnfitView]:
    """The reasons, the commonest first."""
    first: dict[str, int] = {}
    kinds: Counter[str] = Counter()
    for level in levels:
        if place.only_job_type in (None, level.job_type):
            reasons: Sequence[str] = fits(level.requirement, place.resource).reasons
        else:
            reasons = [f"the site is in test mode: only jobs of type {place.only_job_type}"]
        for reason in reasons:
            kinds[reason] += 1
            first[reason] = min(level.head_job_id, first.get(reason, level.head_job_id))
    for reason, many in islice(kinds.most_common(), MOST_REASONS):
        yield UnfitView(reason=reason, kinds=many, first_job=first[reason])


def _warnings(name: str, site: SiteNow) -> Iterator[str]:
    if site.banned is not None:
        yield f"{name} is banned {site.banned}; no node there gets anything as long as it is"
    if site.only_job_type is not None:
        yield f"{name} is in test mode: only jobs of type {site.only_job_type} may run there"
