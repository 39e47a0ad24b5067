"""A VO's policy as its file declares it: shares as they are, a row with a running count for each limit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Row, Select, delete, select, update

from pipeline.store import recount
from pipeline.store.access import Caller
from pipeline.store.database import Transaction
from pipeline.store.policies import stop_matching
from pipeline.store.tables import autoclusters, groups, identities, limit_rules, limits, policies, sites
from schemas.policy import LimitEntry, Policy
from schemas.share_views import PolicyDiff, PolicyView


def show(tx: Transaction, vo_id: int) -> PolicyView:
    """The policy of a VO as it was applied last."""
    row = tx.first(_of(vo_id))
    if row is None:
        return PolicyView(policy=Policy(), applied_by=None, applied_at=None)
    return PolicyView(policy=Policy.model_validate_json(row.body), applied_by=row.applied_by, applied_at=row.applied_at)


def apply(tx: Transaction, caller: Caller, wanted: Policy, *, dry_run: bool = False) -> PolicyDiff:
    """Make the rows what the file says; a limit that it leaves out limits nothing. A dry run only tells the difference.

    A new limit, and one that is about other jobs than before, starts with an exact count of what runs.
    """
    if not dry_run:
        _own(tx, caller)
    work = _Work(tx, caller.vo_id, dry_run=dry_run)
    _compare_shares(work, show(tx, caller.vo_id).policy, wanted)
    _apply_limits(work, wanted.limits)
    if work.to_count:
        recount.recount(tx, work.to_count)
    if not dry_run:
        values = {"body": wanted.model_dump_json(), "applied_by": caller.subject[:200], "applied_at": tx.now}
        tx.run(update(policies).where(policies.c.vo_id == caller.vo_id).values(values))
    return work.diff(_warnings(tx, caller.vo_id, wanted))


@dataclass(slots=True)
class _Work:
    """Writes rows (unless it is a dry run) and keeps the difference."""

    tx: Transaction
    vo_id: int
    dry_run: bool
    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    to_count: list[int] = field(default_factory=list)
    """Rules that are about other jobs than before."""

    def diff(self, warnings: Iterable[str]) -> PolicyDiff:
        """What was found."""
        return PolicyDiff(
            added=tuple(self.added),
            changed=tuple(self.changed),
            removed=tuple(self.removed),
            warnings=tuple(warnings),
            dry_run=self.dry_run,
        )


def _of(vo_id: int) -> Select[Any]:
    return select(policies).where(policies.c.vo_id == vo_id)


def _own(tx: Transaction, caller: Caller) -> None:
    """Two who apply at once come one after the other, and nothing is matched meanwhile: the VO's row is the lock."""
    stop_matching(tx, caller.vo_id)
    row = {"vo_id": caller.vo_id, "body": Policy().model_dump_json(), "applied_by": "", "applied_at": tx.now}
    tx.add_missing(policies, [row])


def _compare_shares(work: _Work, before: Policy, wanted: Policy) -> None:
    old, new = _shares(before), _shares(wanted)
    for label, share in new.items():
        if label not in old:
            work.added.append(f"{label}: share {share:g}")
        elif old[label] != share:
            work.changed.append(f"{label}: share {old[label]:g} -> {share:g}")
    work.removed += [f"{label}: share {share:g} -> 1" for label, share in old.items() if label not in new]


def _shares(policy: Policy) -> Mapping[str, float]:
    found: dict[str, float] = {}
    for name, group in policy.shares.groups.items():
        found[f"group {name}"] = group.share
        found |= {f"owner {owner} of {name}": share for owner, share in group.owners.items()}
    return found


def _apply_limits(work: _Work, wanted: Iterable[LimitEntry]) -> None:
    query = select(limit_rules).where(limit_rules.c.vo_id == work.vo_id).order_by(limit_rules.c.id)
    known = {row.name: row for row in (work.tx.rows(query) if work.dry_run else work.tx.lock(query))}
    if known and not work.dry_run:  # all at once and in the order that matching keeps, whatever the file's
        counts = (limits.c.kind == "rule", limits.c.subject_id.in_([row.id for row in known.values()]))
        work.tx.lock(select(limits.c.id).where(*counts).order_by(limits.c.id))
    for entry in wanted:
        _apply_limit(work, entry, known.get(entry.name))
    named = {entry.name for entry in wanted}
    for name, row in known.items():
        if row.declared and name not in named:
            work.removed.append(f"limit {name}")
            if not work.dry_run:
                work.tx.run(update(limit_rules).where(limit_rules.c.id == row.id).values(declared=False))
                work.tx.run(delete(limits).where(limits.c.kind == "rule", limits.c.subject_id == row.id))


def _apply_limit(work: _Work, entry: LimitEntry, row: Row[Any] | None) -> None:
    before = LimitEntry.model_validate_json(row.rule) if row is not None and row.declared else None
    if before == entry:
        return
    (work.added if before is None else work.changed).append(_label(entry, before))
    if work.dry_run:
        return
    values = {"name": entry.name, "rule": entry.model_dump_json(exclude_defaults=True), "declared": True}
    if row is None:
        rule_id = work.tx.add(limit_rules, vo_id=work.vo_id, **values)
    else:
        rule_id = row.id
        work.tx.run(update(limit_rules).where(limit_rules.c.id == rule_id).values(values))
    mine = (limits.c.kind == "rule", limits.c.subject_id == rule_id)
    work.tx.add_missing(limits, [{"kind": "rule", "subject_id": rule_id, "maximum": entry.max_running, "running": 0}])
    work.tx.lock(select(limits.c.id).where(*mine))
    work.tx.run(update(limits).where(*mine).values(maximum=entry.max_running))
    if before is None or _selectors(before) != _selectors(entry):
        work.to_count.append(rule_id)


def _label(entry: LimitEntry, before: LimitEntry | None) -> str:
    about = " ".join(f"{word}={value}" for word, value in _selectors(entry).items())
    if before is not None and _selectors(before) == _selectors(entry):
        return f"limit {entry.name}: {before.max_running} -> {entry.max_running} running ({about})"
    return f"limit {entry.name}: {entry.max_running} running ({about})"


def _selectors(entry: LimitEntry) -> Mapping[str, str]:
    return entry.model_dump(exclude={"name", "max_running"}, exclude_none=True)


def _warnings(tx: Transaction, vo_id: int, wanted: Policy) -> list[str]:
    """What may well be meant, but is about nothing, or about one of several, as long as it stays so."""
    known_groups = _names(tx, select(groups.c.name).where(groups.c.vo_id == vo_id))
    groups_of = _groups_of(tx, vo_id)
    known = {
        "group": known_groups,
        "owner": groups_of.keys(),
        "site": _names(tx, select(sites.c.name)),
        "job_type": _names(tx, select(autoclusters.c.job_type).where(autoclusters.c.vo_id == vo_id).distinct()),
    }
    found = list(_doubtful_shares(wanted, known_groups, groups_of))
    for entry in wanted.limits:
        for word, value in _selectors(entry).items():
            if word in known and value not in known[word]:
                found.append(f"limit {entry.name}: there is no {word.replace('_', ' ')} {value} yet")
        if entry.owner is not None and len(groups_of.get(entry.owner, ())) > 1:
            found.append(f"limit {entry.name}: several people are called {entry.owner}; it is about the first of them")
    return found


def _doubtful_shares(
    wanted: Policy, known_groups: Container[str], groups_of: Mapping[str, Sequence[str]]
) -> Iterator[str]:
    for name, group in wanted.shares.groups.items():
        if name not in known_groups:
            yield f"shares: there is no group {name} yet"
        for owner in group.owners:
            if owner not in groups_of:
                yield f"shares: there is no owner {owner} in group {name} yet"
            elif name not in groups_of[owner]:
                yield f"shares: {owner} is in group {groups_of[owner][0]}, not in {name}"


def _groups_of(tx: Transaction, vo_id: int) -> Mapping[str, Sequence[str]]:
    """By subject, the group of each person who is called so: issuers vouch for them apart."""
    query = (
        select(identities.c.subject, groups.c.name)
        .join(groups, groups.c.id == identities.c.group_id)
        .where(identities.c.vo_id == vo_id)
        .order_by(identities.c.id)
    )
    found: defaultdict[str, list[str]] = defaultdict(list)
    for row in tx.rows(query):
        found[row.subject].append(row.name)
    return found


def _names(tx: Transaction, query: Select[Any]) -> set[str]:
    return {row[0] for row in tx.rows(query)}
