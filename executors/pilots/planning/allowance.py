"""What limits of running jobs leave: a pilot for a job that may not start would stand idle."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from math import inf

from pipeline.store.autoclusters import Owner
from pipeline.store.limits import counts
from pipeline.store.match_rows import LimitRow


class Allowance:
    """How many more jobs limits let start, while a plan hands it out."""

    def __init__(self, limits: Iterable[LimitRow]) -> None:
        self._free: dict[int, int] = {}
        self._of_sites: defaultdict[int | None, list[LimitRow]] = defaultdict(list)
        self._rules: list[LimitRow] = []
        for limit in limits:
            self._free[limit.id] = max(limit.maximum - limit.running, 0)
            if limit.selector.vo_id is None:
                self._of_sites[limit.selector.site_id].append(limit)
            else:
                self._rules.append(limit)

    @property
    def is_endless(self) -> bool:
        """Whether there is no limit at all."""
        return not self._free

    def rules_of(self, owner: Owner | None) -> tuple[LimitRow, ...]:
        """The rules that count such jobs, at one site or wherever they run."""
        if not self._rules:
            return ()
        return tuple(rule for rule in self._rules if counts(rule, owner, rule.selector.site_id, is_granted=True))

    def room(self, rules: Sequence[LimitRow], site_id: int) -> float:
        """How many jobs that these rules count may start at this site; infinite without a limit."""
        return min((self._free[limit.id] for limit in self._concerned(rules, site_id)), default=inf)

    def take(self, rules: Sequence[LimitRow], site_id: int, jobs: int) -> None:
        """So many of them are provided for."""
        for limit in self._concerned(rules, site_id):
            self._free[limit.id] -= jobs

    def _concerned(self, rules: Sequence[LimitRow], site_id: int) -> Iterator[LimitRow]:
        yield from self._of_sites.get(site_id, ())
        yield from (rule for rule in rules if rule.selector.site_id in {None, site_id})
