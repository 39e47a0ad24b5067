"""Which nodes one transaction keeps for wide jobs.

Rounds plan with counts that may be seconds old. Whoever wants one node more counts anew: it is rare, and otherwise
every slot that offers in those seconds would be kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from executors.matching.terms import Match, Nodes, Outcome, Rules, Slot
from pipeline.store import reservations
from pipeline.store.database import Transaction
from pipeline.store.match_rows import Place


def counted(tx: Transaction) -> dict[int, Nodes]:
    """The nodes of each VO as they are now."""
    return {vo_id: Nodes(total, kept) for vo_id, (total, kept) in reservations.nodes(tx).items()}


class Keeping:
    """What rounds wanted to keep or to give back, as far as it may be; `nodes` are as they would be after it."""

    def __init__(self, tx: Transaction, nodes: Mapping[int, Nodes], rules: Rules) -> None:
        self._tx, self._part = tx, rules.wide_reserve
        self.nodes = dict(nodes)
        self._is_counted = False
        self._places: dict[int, Place] = {}
        """By pilot, as they were before."""
        self._now: dict[int, int | None] = {}
        """By pilot, what it is kept for."""

    def place(self, place: Place) -> Place:
        """The place, as it is kept now."""
        if place.pilot_id not in self._now:
            return place
        return replace(place, reserved_for=self._now[place.pilot_id])

    def take(self, outcome: Outcome, had: Sequence[Match], slots: Iterable[Slot], so_far: Iterable[Match]) -> bool:
        """Take in what a round wanted, of whose matches some were `had`; `so_far` are all. Whether all of it may be:
        what may not is left out, so that those places are open to others."""
        if not outcome.reservations:
            return True
        of_pilot = {slot.place.pilot_id: slot.place for slot in slots}
        missed = _served(outcome.matches) - _served(had)
        wanted = {
            pilot_id: autocluster_id
            for pilot_id, autocluster_id in outcome.reservations.items()
            if autocluster_id is not None or (pilot_id, of_pilot[pilot_id].reserved_for) not in missed
        }
        if not self._is_counted and any(autocluster_id is not None for autocluster_id in wanted.values()):
            self._count()
        served = Counter(found.level.autocluster_id for found in so_far)
        is_all = True
        for pilot_id, autocluster_id in wanted.items():
            place = of_pilot[pilot_id]
            if autocluster_id is None or self._may_keep(place.vo_id, autocluster_id, served[autocluster_id]):
                self._move(place, autocluster_id)
            else:
                is_all = False
        return is_all

    def changes(self, lost: Iterable[Match]) -> dict[int, int | None]:
        """What is to be written. A place is still kept for the jobs that it was to get and did not."""
        for found in lost:
            before = self._places.get(found.place.pilot_id)
            if before is not None and before.reserved_for == found.level.autocluster_id:
                self._move(self.place(before), before.reserved_for)
        return {pilot_id: now for pilot_id, now in self._now.items() if now != self._places[pilot_id].reserved_for}

    def _count(self) -> None:
        self._is_counted = True
        sated = {vo_id: nodes.sated for vo_id, nodes in self.nodes.items()}
        self.nodes = counted(self._tx)
        for vo_id, ids in sated.items():
            if vo_id in self.nodes:
                self.nodes[vo_id] = replace(self.nodes[vo_id], sated=ids)
        for pilot_id, now in self._now.items():
            self._shift(self._places[pilot_id].vo_id, self._places[pilot_id].reserved_for, now)

    def _may_keep(self, vo_id: int, autocluster_id: int, served: int) -> bool:
        nodes = self.nodes.get(vo_id)
        if nodes is None or not nodes.may_keep(autocluster_id, self._part):
            return False
        more = nodes.kept.get(autocluster_id, 0) + 1
        if reservations.waiting_for(self._tx, autocluster_id, served + more) >= served + more:
            return True
        self.nodes[vo_id] = replace(nodes, sated=nodes.sated | {autocluster_id})
        return False

    def _move(self, place: Place, autocluster_id: int | None) -> None:
        self._places.setdefault(place.pilot_id, place)
        self._shift(place.vo_id, place.reserved_for, autocluster_id)
        self._now[place.pilot_id] = autocluster_id

    def _shift(self, vo_id: int, before: int | None, now: int | None) -> None:
        nodes = self.nodes.get(vo_id)
        if nodes is not None:
            self.nodes[vo_id] = nodes.moved(before, now)


def _served(matches: Iterable[Match]) -> set[tuple[int, int]]:
    return {(found.place.pilot_id, found.level.autocluster_id) for found in matches}
