"""Which releases run side by side: as between the first and the last step of an upgrade."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pipeline.queue_views import LIVE_WITHIN
from pipeline.store.instances import InstanceRow


def mixture(rows: Sequence[InstanceRow]) -> str | None:
    """What to say where live processes are of different versions, how many of each; None where they are not."""
    counts = Counter(row.version for row in rows if row.silence < LIVE_WITHIN)
    if len(counts) < 2:
        return None
    shown = ", ".join(f"{version} ({_processes(many)})" for version, many in sorted(counts.items()))
    return f"versions differ: {shown}; finish the upgrade, or take it back"


def _processes(many: int) -> str:
    return "1 process" if many == 1 else f"{many} processes"
