"""Shares as people see them: what each group and owner is to get of its VO, and what it got."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, Select, exists, select

from pipeline.store import usage
from pipeline.store.database import Transaction
from pipeline.store.match_rows import Account
from pipeline.store.policy_apply import show
from pipeline.store.tables import autoclusters, groups, identities, waiting_jobs
from schemas.policy import GroupShare
from schemas.share_views import SharesView, ShareView


@dataclass(frozen=True, slots=True)
class Holder:
    """An owner in a group: shares, and what was used. `usage` is what counts now of it, faded; all core-seconds."""

    group_id: int
    owner_id: int
    group: str
    owner: str
    issuer: str
    group_share: float
    share: float
    usage: float
    charged: int
    settled: int
    used: int
    has_waiting: bool


def list_shares(tx: Transaction, vo_id: int, half_life: float) -> SharesView:
    """Every group and owner of a VO that has used something, has had jobs wait, or is named by the policy."""
    found = in_turn(holders(tx, vo_id, half_life))
    unused = _unused(tx, vo_id, {members[0].group for members in found})
    total = sum(one.usage for members in found for one in members)
    shares = sum(members[0].group_share for members in found) + sum(unused.values())
    items = [_view([], group, share, share / shares, total) for group, share in unused.items()]
    for members in found:
        entitled = members[0].group_share / shares
        owners = sum(one.share for one in members)
        items.append(_view(members, members[0].group, members[0].group_share, entitled, total))
        items += [_view([one], one, one.share, entitled * one.share / owners, total) for one in members]
    return SharesView(half_life=half_life, items=tuple(items))


def holders(tx: Transaction, vo_id: int, half_life: float) -> list[Holder]:
    """Who has a part in the VO. An owner that changed groups has one in each."""
    named = show(tx, vo_id).policy.shares.groups
    accounts = {(one.group_id, one.owner_id): one for one in usage.accounts(tx, [vo_id], half_life)}
    buckets = _buckets(tx, vo_id)
    people = {row.id: row for row in tx.rows(select(identities).where(identities.c.vo_id == vo_id))}
    names = {row.id: row.name for row in tx.rows(select(groups.c.id, groups.c.name).where(groups.c.vo_id == vo_id))}
    by_policy = {
        (row.group_id, row.id)
        for row in people.values()
        if row.subject in named.get(names[row.group_id], GroupShare()).owners
    }
    keys = sorted(accounts.keys() | buckets.keys() | by_policy)
    return [
        _holder(
            people[owner_id],
            (group_id, names[group_id], named.get(names[group_id], GroupShare())),
            accounts.get((group_id, owner_id), Account(vo_id, group_id, owner_id, 0.0, 0, 0, 0)),
            has_waiting=buckets.get((group_id, owner_id), False),
        )
        for group_id, owner_id in keys
        if group_id in names and owner_id in people
    ]


def in_turn(found: Iterable[Holder]) -> list[list[Holder]]:
    """The owners of each group, in the order in which matching asks them: the least usage per share first."""
    of_group: defaultdict[int, list[Holder]] = defaultdict(list)
    for one in found:
        of_group[one.group_id].append(one)
    for members in of_group.values():
        members.sort(key=lambda one: (one.usage / one.share, -one.share, one.owner_id))
    return sorted(of_group.values(), key=_group_turn)


def _group_turn(members: Sequence[Holder]) -> tuple[float, float, int]:
    first = members[0]
    return sum(one.usage for one in members) / first.group_share, -first.group_share, first.group_id


def _holder(person: Row[Any], group: tuple[int, str, GroupShare], account: Account, *, has_waiting: bool) -> Holder:
    group_id, name, shares = group
    return Holder(
        group_id=group_id,
        owner_id=person.id,
        group=name,
        owner=person.subject,
        issuer=person.issuer,
        group_share=shares.share,
        share=shares.owners.get(person.subject, 1.0),
        usage=account.usage,
        charged=account.charged,
        settled=account.settled,
        used=account.used,
        has_waiting=has_waiting,
    )


def _buckets(tx: Transaction, vo_id: int) -> Mapping[tuple[int, int], bool]:
    """(group, owner) of everybody whose jobs have ever waited, and whether some wait now."""
    waits = exists().where(waiting_jobs.c.autocluster_id == autoclusters.c.id)
    query: Select[Any] = select(autoclusters.c.group_id, autoclusters.c.owner_id, waits.label("waits"))
    found: defaultdict[tuple[int, int], bool] = defaultdict(bool)
    for row in tx.rows(query.where(autoclusters.c.vo_id == vo_id)):
        found[row.group_id, row.owner_id] |= bool(row.waits)
    return found


def _unused(tx: Transaction, vo_id: int, seen: set[str]) -> Mapping[str, float]:
    """The shares of groups that the policy names and that nobody in them has made use of."""
    named = show(tx, vo_id).policy.shares.groups
    there = {row.name for row in tx.rows(select(groups.c.name).where(groups.c.vo_id == vo_id))}
    return {name: group.share for name, group in named.items() if name in there - seen}


def _view(members: Sequence[Holder], of: Holder | str, share: float, entitled: float, total: float) -> ShareView:
    mine = sum(member.usage for member in members)
    return ShareView(
        group=of if isinstance(of, str) else of.group,
        owner=None if isinstance(of, str) else of.owner,
        issuer=None if isinstance(of, str) else of.issuer,
        share=share,
        entitled=entitled,
        usage=mine,
        part=mine / total if total else 0.0,
        charged=sum(member.charged for member in members),
        settled=sum(member.settled for member in members),
        used=sum(member.used for member in members),
    )
