"""What runs of the checker found, as a table for people and as JSON for machines."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.chaos.checker import Verdict
from tests.chaos.nemesis import Fault


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run: what went through what, what was done to it, and what became of it."""

    subject: str
    messages: int
    faults: Sequence[Fault]
    verdict: Verdict
    seconds: float

    @property
    def by_kind(self) -> dict[str, int]:
        """How often each kind of fault struck."""
        return dict(sorted(Counter(fault.kind.value for fault in self.faults).items()))


def show(seed: int, outcomes: Sequence[Outcome]) -> None:
    """Print the table; wide enough for its columns wherever it goes."""
    numbers = ("messages", "confirmed", "lost", "unexpected", "duplicated", "recovered", "seconds")
    table = Table("broker", "faults", title=f"seed {seed}")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    for outcome in outcomes:
        found = outcome.verdict
        counts = [outcome.messages, found.confirmed, len(found.lost), len(found.unexpected)]
        counts += [found.duplicated, found.recovered, round(outcome.seconds)]
        faults = "\n".join(f"{many} {kind}" for kind, many in outcome.by_kind.items())
        table.add_row(outcome.subject, faults, *(f"{number:,}" for number in counts))
    Console(width=130).print(table)


def store(seed: int, outcomes: Sequence[Outcome], path: Path) -> None:
    """Write the same, with every fault and every lost or unexpected number, to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {"seed": seed, "runs": [asdict(outcome) for outcome in outcomes]}
    path.write_text(json.dumps(content, indent=1) + "\n")
