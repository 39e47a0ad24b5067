"""Which specifications a kind of node may run: worked out once per pair, and never voided by submissions."""

from __future__ import annotations

from schemas.requirements import Requirement, Resource, Specification


class Eligibility:
    """One per process, for its whole life. A new requirement extends it; what it holds is bounded."""

    def __init__(self, most_resources: int = 4_096, most_wishes: int = 65_536) -> None: ...

    def usable(
        self, resource_key: int, resource: Resource, requirement_id: int, requirement: Requirement
    ) -> tuple[tuple[int, Specification], ...]:
        """(index, specification) of each alternative that such a node may run, free room and time aside."""
        raise NotImplementedError
