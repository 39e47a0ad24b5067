"""Autoclusters: waiting jobs that want the same and are charged to the same, matched alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from sqlalchemy import select

from pipeline.store.database import Transaction, in_chunks
from pipeline.store.tables import autoclusters, requirements
from schemas.requirements import Names, Requirement


@dataclass(frozen=True, slots=True)
class Bucket:
    """Whom a job is charged to."""

    vo_id: int
    group_id: int
    owner_id: int
    job_type: str


@dataclass(frozen=True, slots=True)
class Owner:
    """Whom an autocluster's jobs are charged to, and what else limits look at in them."""

    vo_id: int
    group_id: int
    owner_id: int
    job_type: str
    labels: Names


Key = tuple[str, Bucket]
"""The signature of a requirement, and the bucket."""


def ensure(tx: Transaction, wanted: Mapping[Key, Requirement]) -> Mapping[Key, int]:
    """The ids of these autoclusters, made where they are missing; safe in a race, since ids are read back."""
    requirement_ids = _ensure_requirements(tx, {signature: body for (signature, _), body in wanted.items()})
    owners = {bucket.owner_id for _, bucket in wanted}
    found = _clusters(tx, requirement_ids, owners)
    missing = sorted(wanted.keys() - found.keys(), key=repr)
    if missing:
        rows = [
            {
                "requirement_id": requirement_ids[signature],
                "vo_id": bucket.vo_id,
                "group_id": bucket.group_id,
                "owner_id": bucket.owner_id,
                "job_type": bucket.job_type,
            }
            for signature, bucket in missing
        ]
        tx.add_missing(autoclusters, rows)
        found = _clusters(tx, requirement_ids, owners)
    return {key: found[key] for key in wanted}


def owners_of(tx: Transaction, ids: Iterable[int]) -> Mapping[int, Owner]:
    """Whom the jobs of these autoclusters are charged to, by autocluster."""
    found: dict[int, Owner] = {}
    bucket = (autoclusters.c.id, *(autoclusters.c[name] for name in Bucket.__slots__))
    for chunk in in_chunks(sorted(set(ids))):
        query = select(*bucket, requirements.c.body).join(
            requirements, requirements.c.id == autoclusters.c.requirement_id
        )
        for row in tx.rows(query.where(autoclusters.c.id.in_(chunk))):
            labels = requirement_of(row.body).labels
            found[row.id] = Owner(row.vo_id, row.group_id, row.owner_id, row.job_type, labels)
    return found


@lru_cache(maxsize=10_000)
def requirement_of(body: str) -> Requirement:
    """A stored requirement, parsed once."""
    return Requirement.model_validate_json(body)


def _ensure_requirements(tx: Transaction, bodies: Mapping[str, Requirement]) -> Mapping[str, int]:
    found = _requirement_ids(tx, bodies)
    missing = sorted(bodies.keys() - found.keys())
    if missing:
        rows = [
            {"signature": signature, "body": bodies[signature].model_dump_json(exclude_defaults=True)}
            for signature in missing
        ]
        tx.add_missing(requirements, rows)
        found = _requirement_ids(tx, bodies)
    return found


def _requirement_ids(tx: Transaction, signatures: Iterable[str]) -> Mapping[str, int]:
    found: dict[str, int] = {}
    for chunk in in_chunks(sorted(signatures)):
        query = select(requirements.c.id, requirements.c.signature).where(requirements.c.signature.in_(chunk))
        found |= {row.signature: row.id for row in tx.rows(query)}
    return found


def _clusters(tx: Transaction, requirement_ids: Mapping[str, int], owners: set[int]) -> dict[Key, int]:
    signatures = {requirement_id: signature for signature, requirement_id in requirement_ids.items()}
    found: dict[Key, int] = {}
    for chunk in in_chunks(sorted(signatures)):
        query = select(autoclusters).where(
            autoclusters.c.requirement_id.in_(chunk), autoclusters.c.owner_id.in_(owners)
        )
        for row in tx.rows(query):
            bucket = Bucket(row.vo_id, row.group_id, row.owner_id, row.job_type)
            found[signatures[row.requirement_id], bucket] = row.id
    return found
