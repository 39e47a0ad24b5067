"""What a benchmark has measured, as a table for people and as JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Figure:
    """One number: what was measured, of whom, how much, in which unit."""

    measure: str
    subject: str
    value: float
    unit: str
    expected: float | None = None
    """The least that is expected, where something is."""

    @property
    def verdict(self) -> str:
        """Whether that was met, in words."""
        if self.expected is None:
            return ""
        return f"{'met' if self.value >= self.expected else 'MISSED'}: >= {self.expected:g}"


def show(name: str, figures: Sequence[Figure]) -> None:
    """Print the figures of benchmark `name`."""
    judged = any(figure.expected is not None for figure in figures)
    table = Table("measure", "subject", "value", "unit", *(["expected"] if judged else []), title=name)
    for figure in figures:
        verdict = [figure.verdict] if judged else []
        table.add_row(figure.measure, figure.subject, f"{figure.value:,.3g}", figure.unit, *verdict)
    Console().print(table)


def store(name: str, figures: Sequence[Figure], folder: Path) -> Path:
    """Write the figures to NAME.json in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps([asdict(figure) for figure in figures], indent=1) + "\n")
    return path
