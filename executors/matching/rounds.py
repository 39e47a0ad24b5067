"""The pure part of matching: one round, which says what jobs go to which slots.

A slot is filled before the next one gets anything. Who is next is asked anew as often as it may change: the group
with the least usage per share, in it the owner with the least, then that owner's best (see `choice`). Everything that
is given is charged, counted against limits and taken from the slot's room at once, so that the round cannot overshoot.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import ceil
from typing import Self

from executors.matching.allowance import Allowance
from executors.matching.board import Board, Entry, Key
from executors.matching.choice import Choice, Lane, Opening, Pick
from executors.matching.fair_share import Turns
from executors.matching.supply import Supply, older_than
from executors.matching.terms import Backlog, Match, Nodes, Outcome, Rules, Slot, Terms
from pipeline.store.match_rows import Level, Place
from schemas.requirements import Specification, grant, room_of
from schemas.rooms import Grant

__all__ = ["Backlog", "Match", "Nodes", "Outcome", "Rules", "Slot", "Terms", "match", "trimmed", "wanted_by"]


def match(slots: Sequence[Slot], board: Board, terms: Terms, backlog: Backlog) -> Outcome:
    """At most `rules.most` matches of the levels on the board with the slots.

    The board follows what is matched; it is left as it was if that fails.
    """
    board.refresh()
    with _Round(slots, board, terms, backlog) as one:
        one.run()
    return one.outcome()


def trimmed(matches: Sequence[Match], allowance: Allowance) -> list[Match]:
    """The matches that limits and start rates, read anew under locks, still leave room for, in order."""
    kept = []
    for found in matches:
        if allowance.left(found.level, found.place) > 0:
            allowance.spend(found.level, found.place, 1)
            kept.append(found)
    return kept


def wanted_by(slots: Sequence[Slot], level: Level, board: Board) -> bool:
    """Whether one of the slots could take a job of this level now, limits aside."""
    return any(
        grant(specification, slot.free, slot.time_left, slot.place.resource.power) is not None
        for slot in slots
        for specification in _usable(slot.place, level, board)
    )


def _usable(place: Place, level: Level, board: Board) -> Iterator[Specification]:
    if place.vo_id != level.vo_id or place.only_job_type not in (None, level.job_type):
        return
    found = board.eligibility.usable(place.resource_key, place.resource, level.requirement_id, level.requirement)
    yield from (specification for _, specification in found)


class _Round:
    """The state of a round, and its steps."""

    def __init__(self, slots: Sequence[Slot], board: Board, terms: Terms, backlog: Backlog) -> None:
        self._board, self._terms, self._backlog = board, terms, backlog
        self._slots = sorted(slots, key=lambda slot: (slot.free.cores, slot.place.pilot_id))
        self._cores_ahead = sum(max(slot.free.cores, 0) for slot in slots)
        self._left = terms.rules.most
        self._matches: list[Match] = []
        self._supplies: dict[Key, Supply] = {}
        self._turns: dict[int, Turns] = {}
        self._before: dict[Key, Level | None] = {}
        self._drained: set[Key] = set()
        self._reservations: dict[int, int | None] = {}
        self._nodes = dict(terms.nodes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        """Put the board's levels back as they were if the round failed."""
        if failure is None:
            return
        for (autocluster_id, priority), level in self._before.items():
            if level is None:
                self._board.drop(autocluster_id, priority)
            else:
                self._board.put(level)

    def run(self) -> None:
        """Fill every slot."""
        for index, slot in enumerate(self._slots):
            if self._left <= 0:
                break
            opening = self._open(slot)
            if slot.place.reserved_for is not None:
                self._serve_reserved(opening, slot.place.reserved_for)
            if opening.free.cores > 0:
                self._fill(opening, self._slots[index + 1 :])
            self._cores_ahead -= max(slot.free.cores, 0)

    def outcome(self) -> Outcome:
        """What came of it."""
        known = {key: level for key in self._before if (level := self._board.get(key)) is not None}
        return Outcome(
            matches=tuple(self._matches),
            heads=tuple(level for key, level in known.items() if self._before[key] is not None),
            drained=frozenset(self._drained),
            lower=tuple(level for key, level in known.items() if self._before[key] is None),
            is_cut_short=self._left <= 0,
            reservations=self._reservations,
        )

    def _open(self, slot: Slot) -> Opening:
        place, allowance = slot.place, self._terms.allowance
        return Opening(
            place=place,
            free=slot.free,
            time_left=slot.time_left,
            verdicts=self._board.eligibility.verdicts(place.resource_key, place.resource),
            allowance=allowance,
            now=self._terms.now.timestamp(),
            rules=self._terms.rules,
        )

    def _fill(self, opening: Opening, others: Sequence[Slot]) -> None:
        vo_id, site_id = opening.place.vo_id, opening.place.site_id
        desks = self._board.desks.get(vo_id, {})
        turns = self._turns.get(vo_id)
        if turns is None:
            turns = self._turns[vo_id] = Turns(self._terms.shares, vo_id, desks)
        turns.restart()
        choices: dict[tuple[int, int], Choice] = {}
        while self._left > 0 and opening.free.cores > 0 and self._terms.allowance.starts_left(site_id) > 0:
            who = turns.next()
            if who is None:
                break
            choice = choices.get(who)
            if choice is None:
                choice = choices[who] = Choice(desks[who[0]][who[1]], opening)
            pick = choice.pick()
            if pick is None:
                if not self._fits_any(opening):
                    break
                turns.skip()
            elif pick.grant is None:
                self._reserve(opening, pick.entry, others)
                choice.decline(pick)
            else:
                self._give(opening, pick, pick.grant, turns.margin())

    def _fits_any(self, opening: Opening) -> bool:
        """Whether what is free could be enough for anything that waits."""
        shapes = self._board.shapes.get(opening.place.vo_id, {})
        return any(count and opening.has_room(shape) for shape, count in shapes.items())

    def _give(self, opening: Opening, pick: Pick, granted: Grant, margin: float) -> int:
        """As many jobs as fit and as its owner may have before it is somebody else's turn; how many it got."""
        level, place, charge = pick.entry.level, opening.place, max(granted.charge, 1)
        most = min(
            opening.free.times(granted) if pick.lane is Lane.RANK else 1,
            self._terms.allowance.left(level, place),
            self._left,
            1 if margin < charge else ceil(min(margin / charge, self._left)),
        )
        supply = self._supply(level)
        jobs = supply.next_jobs(most, min(self._cores_ahead // granted.cores, self._left))
        if jobs and pick.rival_id is not None:
            is_oldest = jobs[0].id <= level.head_job_id  # otherwise the rival may be older: look again
            jobs = jobs[: max(older_than(jobs, pick.rival_id), int(is_oldest))]
        supply.give(len(jobs))
        if jobs:
            self._matches += [Match(job, level, place, granted, pick.entry.wish.alternative) for job in jobs]
            self._left -= len(jobs)
            opening.free = opening.free.less(granted, len(jobs))
            self._terms.allowance.spend(level, place, len(jobs))
            self._charge(level, pick.lane, charge * len(jobs))
        self._move_head(level, supply.head_id())
        return len(jobs)

    def _charge(self, level: Level, lane: Lane, amount: float) -> None:
        self._terms.shares.charge(level.vo_id, level.group_id, level.owner_id, amount)
        debts = self._board.desks[level.vo_id][level.group_id][level.owner_id].debts
        for each in (Lane.WIDE, Lane.OLD):
            change = amount if each is lane else -each.value * amount
            debts[each.name] = max(debts.get(each.name, 0.0) + change, 0.0)

    def _supply(self, level: Level) -> Supply:
        key = level.autocluster_id, level.priority
        supply = self._supplies.get(key)
        if supply is None:
            supply = self._supplies[key] = Supply(level, self._backlog)
        return supply

    def _move_head(self, level: Level, head_id: int | None) -> None:
        key = level.autocluster_id, level.priority
        if head_id == level.head_job_id:
            return
        self._before.setdefault(key, level)
        if head_id is not None:
            self._board.put(replace(level, head_job_id=head_id))
            return
        self._board.drop(*key)
        self._drained.add(key)
        lower = self._backlog.after(level)  # the board may have another, below this one
        lower_key = None if lower is None else (lower.autocluster_id, lower.priority)
        if lower is None or lower_key is None or lower_key in self._drained:
            return
        if self._board.get(lower_key) is None:
            self._before.setdefault(lower_key, None)
            self._board.put(lower)

    def _serve_reserved(self, opening: Opening, autocluster_id: int) -> None:
        """One job of the autocluster that the place is kept for, if there is room; else nothing that is narrower."""
        may_start = self._terms.allowance.starts_left(opening.place.site_id) > 0
        while possible := self._possible(opening, autocluster_id):
            entry = next((entry for entry in possible if opening.granted(entry) is not None), None)
            granted = None if entry is None else opening.granted(entry)
            if entry is None or granted is None or not may_start:
                opening.narrowest = min(entry.width for entry in possible)
                return
            if self._give(opening, Pick(Lane.WIDE, entry, granted), granted, 0.0):
                break
        self._release(opening.place)

    def _possible(self, opening: Opening, autocluster_id: int) -> list[Entry]:
        """Whatever of the autocluster could run if the node were empty."""
        everything = room_of(opening.place.resource)
        return [
            entry
            for entry in self._board.entries(autocluster_id)
            if entry.level.vo_id == opening.place.vo_id
            and opening.suits(entry)
            and opening.granted(entry, everything) is not None
        ]

    def _release(self, place: Place) -> None:
        self._reservations[place.pilot_id] = None
        self._shift(place.vo_id, place.reserved_for, None)

    def _shift(self, vo_id: int, before: int | None, now: int | None) -> None:
        if vo_id in self._nodes:
            self._nodes[vo_id] = self._nodes[vo_id].moved(before, now)

    def _reserve(self, opening: Opening, entry: Entry, others: Sequence[Slot]) -> None:
        """Keep the place for a wide level that is due, unless there is room for it elsewhere."""
        place, level = opening.place, entry.level
        if place.reserved_for is not None or place.pilot_id in self._reservations:
            return
        nodes, part = self._nodes.get(place.vo_id), self._terms.rules.wide_reserve
        if nodes is None or not nodes.may_keep(level.autocluster_id, part):
            return
        possible = self._possible(opening, level.autocluster_id)
        fits_now = any(opening.granted(one) is not None for one in possible)
        if entry not in possible or fits_now or wanted_by(others, level, self._board):
            return
        self._reservations[place.pilot_id] = level.autocluster_id
        self._shift(place.vo_id, None, level.autocluster_id)
        opening.narrowest = entry.width
