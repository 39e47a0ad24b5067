"""What optimisers judge by, read in a few queries for a whole batch of jobs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from sqlalchemy import ColumnElement, exists, func, select

from pipeline.store.bans import banned_queues, tested_queues
from pipeline.store.database import Transaction, in_chunks
from pipeline.store.tables import (
    campaigns,
    datasets,
    files,
    replicas,
    sandboxes,
    site_queues,
    site_storages,
    sites,
    slots,
    steps,
    storages,
    vos,
)
from schemas.placement import QueueOffer, queue_offer
from schemas.sites import SiteQueueEntry
from schemas.states import CampaignState, StepState


@dataclass(frozen=True, slots=True)
class StepFilesKey:
    """The outputs of a step of a campaign, of all of its versions; those of one file name, or all."""

    campaign_id: int
    step: str
    name: str | None = None


@dataclass(frozen=True, slots=True)
class StepFiles:
    """How many files those are, the first one without a usable replica, and the sites that have them all."""

    count: int
    unavailable: str | None
    sites: frozenset[str]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a batch asks for: VOs, sandboxes (VO, digest), files (VO, logical name), outputs of steps."""

    vo_ids: frozenset[int] = frozenset()
    sandboxes: frozenset[tuple[int, str]] = frozenset()
    files: frozenset[tuple[int, str]] = frozenset()
    step_files: frozenset[StepFilesKey] = frozenset()


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found. `files` has those with a usable replica, with the declared sites where one is."""

    sandboxes: frozenset[tuple[int, str]] = frozenset()
    storages: frozenset[str] = frozenset()
    offers: Mapping[int, tuple[QueueOffer, ...]] = field(default_factory=dict)
    """By VO, what its site queues offer."""
    files: Mapping[tuple[int, str], frozenset[str]] = field(default_factory=dict)
    step_files: Mapping[StepFilesKey, StepFiles] = field(default_factory=dict)


def read_facts(tx: Transaction, wanted: Wanted, *, margin: float) -> Facts:
    """The facts about what is wanted; `margin` is how many seconds before its wall time a pilot ends."""
    return Facts(
        sandboxes=_sandboxes(tx, wanted.sandboxes),
        storages=frozenset(row.name for row in tx.rows(select(storages.c.name).where(storages.c.declared))),
        offers=read_offers(tx, wanted.vo_ids, margin=margin),
        files=_files(tx, wanted.files),
        step_files={key: _step_files(tx, key) for key in wanted.step_files},
    )


def read_offers(tx: Transaction, vo_ids: Iterable[int], *, margin: float) -> Mapping[int, tuple[QueueOffer, ...]]:
    """What the declared site queues offer to each of these VOs; those banned for it or in test mode are marked so."""
    names = {row.id: row.name for row in tx.rows(select(vos.c.id, vos.c.name).where(vos.c.id.in_(set(vo_ids))))}
    banned, tested = banned_queues(tx), tested_queues(tx)
    found: defaultdict[int, list[QueueOffer]] = defaultdict(list)
    query = (
        select(site_queues.c.id, site_queues.c.entry, sites.c.name.label("site"))
        .join(sites, sites.c.id == site_queues.c.site_id)
        .where(site_queues.c.declared, sites.c.declared)
        .order_by(sites.c.name, site_queues.c.name)
    )
    for row in tx.rows(query):
        wanted_by = _entry(row.entry).vos
        for vo_id, vo in names.items():
            if vo in wanted_by:
                everybody, own = (row.id, None), (row.id, vo_id)
                is_banned = bool({everybody, own} & banned)
                only_job_type = tested.get(everybody, tested.get(own))
                found[vo_id].append(_offer(row.site, row.entry, margin, is_banned, only_job_type))
    return {vo_id: tuple(found[vo_id]) for vo_id in names}


@lru_cache(maxsize=16_384)
def _entry(body: str) -> SiteQueueEntry:
    return SiteQueueEntry.model_validate_json(body)


@lru_cache(maxsize=16_384)
def _offer(site: str, body: str, margin: float, banned: bool, only_job_type: str | None) -> QueueOffer:
    """Made once by each process: measured, a thousand queues would cost every batch of jobs 17 ms."""
    return queue_offer(site, _entry(body), margin=margin, banned=banned, only_job_type=only_job_type)


def running_steps(tx: Transaction, step_ids: Iterable[int]) -> frozenset[int]:
    """Those of the steps that run, in a campaign that runs; neither is paused or ended before the caller commits."""
    query = (
        select(steps.c.id)
        .join(campaigns, campaigns.c.id == steps.c.campaign_id)
        .where(
            steps.c.id.in_(set(step_ids)),
            steps.c.state == StepState.RUNNING,
            campaigns.c.state == CampaignState.RUNNING,
        )
    )
    return frozenset(row.id for row in tx.share(query))


def is_any_slot_parked(tx: Transaction, vo_ids: Iterable[int]) -> bool:
    """Whether a pilot of one of these VOs waits for jobs."""
    query = select(slots.c.pilot_id).where(slots.c.state == "parked", slots.c.vo_id.in_(set(vo_ids)))
    return tx.first(query) is not None


def _sandboxes(tx: Transaction, wanted: frozenset[tuple[int, str]]) -> frozenset[tuple[int, str]]:
    found: set[tuple[int, str]] = set()
    for chunk in in_chunks(sorted({digest for _, digest in wanted})):
        query = select(sandboxes.c.vo_id, sandboxes.c.digest).where(sandboxes.c.digest.in_(chunk))
        found |= {(row.vo_id, row.digest) for row in tx.rows(query)}
    return wanted & found


def _files(tx: Transaction, wanted: frozenset[tuple[int, str]]) -> Mapping[tuple[int, str], frozenset[str]]:
    found: defaultdict[tuple[int, str], set[str]] = defaultdict(set)
    for vo_id in {vo_id for vo_id, _ in wanted}:
        for chunk in in_chunks(sorted(lfn for of_vo, lfn in wanted if of_vo == vo_id)):
            query = (
                select(files.c.lfn, sites.c.name)
                .join(replicas, (replicas.c.file_id == files.c.id) & (replicas.c.state == "usable"))
                .outerjoin(site_storages, site_storages.c.storage_id == replicas.c.storage_id)
                .outerjoin(sites, (sites.c.id == site_storages.c.site_id) & sites.c.declared)
                .where(files.c.vo_id == vo_id, files.c.lfn.in_(chunk))
            )
            for row in tx.rows(query):
                found[vo_id, row.lfn] |= {row.name} - {None}
    return {key: frozenset(names) for key, names in found.items()}


def _step_files(tx: Transaction, key: StepFilesKey) -> StepFiles:
    of_key = _condition(key)
    count = tx.scalar(select(func.count()).select_from(files).where(of_key))
    usable = exists().where(replicas.c.file_id == files.c.id, replicas.c.state == "usable")
    unavailable = tx.scalar(select(func.min(files.c.lfn)).where(of_key, ~usable))
    there = func.count(func.distinct(files.c.id))
    query = (
        select(sites.c.name)
        .select_from(files)
        .join(replicas, (replicas.c.file_id == files.c.id) & (replicas.c.state == "usable"))
        .join(site_storages, site_storages.c.storage_id == replicas.c.storage_id)
        .join(sites, (sites.c.id == site_storages.c.site_id) & sites.c.declared)
        .where(of_key)
        .group_by(sites.c.name)
        .having(there == count)
    )
    return StepFiles(int(count), unavailable, frozenset(row.name for row in tx.rows(query)))


def _condition(key: StepFilesKey) -> ColumnElement[bool]:
    of_step = (
        select(datasets.c.id)
        .join(steps, steps.c.id == datasets.c.step_id)
        .where(steps.c.campaign_id == key.campaign_id, steps.c.name == key.step)
    )
    condition = files.c.dataset_id.in_(of_step)
    return condition if key.name is None else condition & (files.c.name == key.name)
