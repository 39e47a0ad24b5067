"""Policies of VOs as matching needs them: shares with ids for names.

A limit that begins counting must not miss what is being matched, nor may matching miss the limit: whoever matches for
a VO shares its row until the commit, and whoever makes a limit has it alone, before anything else is locked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from sqlalchemy import select

from pipeline.store.database import Transaction
from pipeline.store.tables import groups, identities, policies, vos
from schemas.policy import Policy


@dataclass(frozen=True, slots=True)
class StoredShares:
    """The shares that a VO's policy names; who is not named has share 1."""

    groups: Mapping[int, float] = field(default_factory=dict)
    """By group id."""
    owners: Mapping[tuple[int, int], float] = field(default_factory=dict)
    """By (group id, owner id)."""


def read(tx: Transaction, vo_ids: Iterable[int]) -> Mapping[int, Policy]:
    """The policies of these VOs, by VO; a VO that has applied none is left out."""
    query = select(policies.c.vo_id, policies.c.body).where(policies.c.vo_id.in_(sorted(set(vo_ids))))
    return {row.vo_id: _parsed(row.body) for row in tx.rows(query)}


def hold_still(tx: Transaction, vo_ids: Iterable[int]) -> None:
    """No limit begins to count jobs of these VOs until the transaction ends."""
    tx.share(select(vos.c.id).where(vos.c.id.in_(sorted(set(vo_ids)))).order_by(vos.c.id))


def stop_matching(tx: Transaction, vo_id: int | None) -> None:
    """Nobody matches jobs of the VO (None: of any) until the transaction ends; waits for those who do."""
    query = select(vos.c.id).order_by(vos.c.id)
    tx.lock(query if vo_id is None else query.where(vos.c.id == vo_id))


def shares(tx: Transaction, vo_ids: Iterable[int]) -> Mapping[int, StoredShares]:
    """The shares of these VOs, by VO; a VO that has applied no policy is left out."""
    return {vo_id: _shares(tx, vo_id, policy) for vo_id, policy in read(tx, vo_ids).items()}


def _shares(tx: Transaction, vo_id: int, policy: Policy) -> StoredShares:
    named = policy.shares.groups
    if not named:
        return StoredShares()
    of_vo = select(groups.c.id, groups.c.name).where(groups.c.vo_id == vo_id, groups.c.name.in_(sorted(named)))
    group_ids = {row.name: row.id for row in tx.rows(of_vo)}
    subjects = sorted({subject for group in named.values() for subject in group.owners})
    owner_ids: dict[str, list[int]] = {}
    if subjects:
        query = select(identities.c.id, identities.c.subject)
        for row in tx.rows(query.where(identities.c.vo_id == vo_id, identities.c.subject.in_(subjects))):
            owner_ids.setdefault(row.subject, []).append(row.id)
    return StoredShares(
        {group_ids[name]: group.share for name, group in named.items() if name in group_ids},
        {
            (group_ids[name], owner_id): share
            for name, group in named.items()
            if name in group_ids
            for subject, share in group.owners.items()
            for owner_id in owner_ids.get(subject, ())
        },
    )


@lru_cache(maxsize=1_000)
def _parsed(body: str) -> Policy:
    return Policy.model_validate_json(body)
