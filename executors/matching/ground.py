"""What a round stands on: what limits leave and what shares say, as a transaction reads them once, without locks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from executors.matching.allowance import Allowance
from executors.matching.fair_share import Entitlements, Shares
from executors.matching.rounds import Match, Nodes, Rules, Terms
from pipeline.settings import Settings
from pipeline.store import limits, policies, usage
from pipeline.store.database import Transaction
from pipeline.store.match_rows import Account, LimitRow, Place, StartRate


@dataclass(frozen=True, slots=True)
class Ground:
    """All of it, for the VOs and sites of a round's slots."""

    limits: Sequence[LimitRow]
    rates: Sequence[StartRate]
    accounts: Sequence[Account]
    entitlements: Mapping[int, Entitlements]
    nodes: Mapping[int, Nodes]
    now: datetime

    @classmethod
    def read(cls, tx: Transaction, places: Iterable[Place], nodes: Mapping[int, Nodes], settings: Settings) -> Ground:
        """As it is now."""
        found = list(places)
        vo_ids, site_ids = {place.vo_id for place in found}, {place.site_id for place in found}
        policies.hold_still(tx, vo_ids)
        shares = policies.shares(tx, vo_ids)
        return cls(
            limits=limits.of(tx, vo_ids, site_ids),
            rates=limits.rates(tx, site_ids),
            accounts=usage.accounts(tx, vo_ids, settings.share_half_life),
            entitlements={vo_id: Entitlements(own.groups, own.owners) for vo_id, own in shares.items()},
            nodes=nodes,
            now=tx.now,
        )

    def terms(self, so_far: Sequence[Match], rules: Rules) -> Terms:
        """The terms of one planning, after what earlier ones of the same transaction have given away."""
        return Terms(
            shares=Shares(self.entitlements, [*self.accounts, *_charged(so_far)]),
            allowance=self._allowance(so_far),
            nodes=self.nodes,
            rules=rules,
            now=self.now,
        )

    def concerned(self, matches: Sequence[Match]) -> tuple[list[LimitRow], set[int]]:
        """The limits that these matches count against, and the sites where they take from a start rate."""
        spent = self._allowance(matches)
        with_rate = {rate.site_id for rate in self.rates}
        counted = spent.limits_spent()
        return [limit for limit in self.limits if limit.id in counted], with_rate & spent.starts_spent().keys()

    def _allowance(self, so_far: Sequence[Match]) -> Allowance:
        allowance = Allowance(self.limits, self.rates, self.now)
        for match in so_far:
            allowance.spend(match.level, match.place, 1)
        return allowance


def charges(matches: Iterable[Match]) -> Counter[usage.Key]:
    """Core-seconds that owners are charged for these matches."""
    found: Counter[usage.Key] = Counter()
    for match in matches:
        level = match.level
        found[level.vo_id, level.group_id, level.owner_id] += match.grant.charge
    return found


def _charged(matches: Iterable[Match]) -> list[Account]:
    return [Account(*key, usage=charge, charged=0, settled=0, used=0) for key, charge in charges(matches).items()]
