"""Which specifications a kind of node may run: worked out once per pair, and never voided by submissions."""

from __future__ import annotations

from dataclasses import dataclass

from executors.matching.rooms import Shape, shape_of
from schemas.requirements import Requirement, Resource, Specification, room_of, suits
from schemas.specifications import Needs

UNKNOWN, NO, YES = 0, 1, 2
"""Verdicts on one wish, a byte each."""


@dataclass(frozen=True, slots=True, eq=False)
class Wish:
    """One alternative of a requirement. `ordinal` is its place in the verdicts of every kind of node, `shape` is one
    object for all wishes of about the same needs."""

    ordinal: int
    alternative: int
    specification: Specification
    needs: Needs
    shape: Shape


class Verdicts:
    """What is known of one kind of node: a byte per wish. Of nodes of about one size the verdict is that on the
    largest: whoever grants is exact about room."""

    __slots__ = ("known", "resource")

    def __init__(self, resource: Resource) -> None:
        self.resource = resource
        self.known = bytearray()

    def allow(self, wish: Wish) -> bool:
        """Whether such a node may run it, free room and time aside."""
        verdict = self.known[wish.ordinal]
        if verdict == UNKNOWN:
            verdict = YES if suits(wish.specification, self.resource) else NO
            self.known[wish.ordinal] = verdict
        return verdict == YES


class Eligibility:
    """One per process, for its whole life. A new requirement extends it; what it holds is bounded.

    At most `most_resources` x `most_wishes` bytes. Of kinds of nodes the first known are forgotten first; when there
    are too many wishes, everything is, and `generation` goes up.
    """

    def __init__(self, most_resources: int = 4_096, most_wishes: int = 65_536) -> None:
        self.generation = 0
        self._most_resources = most_resources
        self._most_wishes = most_wishes
        self._wishes: dict[int, tuple[Wish, ...]] = {}
        self._count = 0
        self._verdicts: dict[int, Verdicts] = {}
        self._shapes: dict[Shape, Shape] = {}

    def usable(
        self, resource_key: int, resource: Resource, requirement_id: int, requirement: Requirement
    ) -> tuple[tuple[int, Specification], ...]:
        """(index, specification) of each alternative that such a node may run, free room and time aside."""
        wishes = self.wishes(requirement_id, requirement)
        verdicts = self.verdicts(resource_key, resource)
        return tuple((wish.alternative, wish.specification) for wish in wishes if verdicts.allow(wish))

    def wishes(self, requirement_id: int, requirement: Requirement) -> tuple[Wish, ...]:
        """The alternatives of a requirement; the numbers in them hold for one generation."""
        found = self._wishes.get(requirement_id)
        if found is None:
            found = tuple(
                Wish(self._count + index, index, specification, specification.needs, self._shape(specification.needs))
                for index, specification in enumerate(requirement.specifications())
            )
            self._wishes[requirement_id] = found
            self._count += len(found)
        return found

    def verdicts(self, resource_key: int, resource: Resource) -> Verdicts:
        """What is known of a kind of node, long enough for every wish that there is."""
        found = self._verdicts.get(resource_key)
        if found is None:
            if len(self._verdicts) >= self._most_resources:
                del self._verdicts[next(iter(self._verdicts))]
            found = self._verdicts[resource_key] = Verdicts(resource.with_room(room_of(resource).coarse()))
        missing = self._count - len(found.known)
        if missing > 0:
            found.known.extend(bytes(missing))
        return found

    def is_full(self) -> bool:
        """Whether there are more wishes than may be remembered."""
        return self._count > self._most_wishes

    def forget(self) -> None:
        """Begin anew. Who keeps wishes must get them again."""
        self.generation += 1
        self._wishes.clear()
        self._verdicts.clear()
        self._shapes.clear()
        self._count = 0

    def _shape(self, needs: Needs) -> Shape:
        shape = shape_of(needs)
        return self._shapes.setdefault(shape, shape)
