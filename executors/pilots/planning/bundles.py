"""Jobs that fit the same queues alike are shared over them as one: thousands of wants are few bundles."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from executors.pilots.planning.fitting import Want
from executors.pilots.planning.spots import Spot


@dataclass(frozen=True, slots=True)
class Bundle:
    """Wants that fit the same queues alike: shared as one, `want`; what is left goes back to the `members`."""

    want: Want
    members: Sequence[Want]

    def settle(self) -> None:
        """The first members have what there is."""
        left = self.want.jobs
        for member in reversed(self.members):
            member.jobs, left = min(member.jobs, left), left - min(member.jobs, left)


def bundled(mine: Iterable[Want], open_: Sequence[Spot]) -> list[Bundle]:
    """The wants of one VO that have jobs without a place, by how they fit its open queues."""
    kinds = {(spot.kind.key, spot.room.only_job_type): spot for spot in open_}
    found: dict[object, list[Want]] = {}
    for want in mine:
        if want.jobs <= 0:
            continue
        fits = [spot.fit(want) for spot in kinds.values()]
        alike = tuple(None if fit is None else (fit.each, fit.cores) for fit in fits)
        names = [fit.usable for fit in fits if fit is not None and fit.is_bound]
        sites = tuple((one.sites, one.banned_sites) for usable in names[:1] for one in usable)
        found.setdefault((want.rules, want.job_type, want.cores, alike, sites), []).append(want)
    return [_bundle(members) for members in found.values()]


def _bundle(members: Sequence[Want]) -> Bundle:
    largest = max(members, key=lambda want: want.alternatives[0].specification.least.memory)
    whole = Want(largest.vo_id, largest.job_type, largest.alternatives, largest.rules, largest.fits, largest.cores)
    whole.jobs = whole.total = sum(want.jobs for want in members)
    return Bundle(whole, members)
