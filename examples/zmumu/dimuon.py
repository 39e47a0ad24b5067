#!/usr/bin/env python3
"""The invariant mass of muon pairs in one slice of a CSV file, as a histogram.

    python3 dimuon.py --slice 3 --of 24

reads its share of the rows of Zmumu_Run2011A.csv and leaves histogram-3.json. Standard library only,
as a payload on somebody else's worker node should be.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LOW, HIGH, WIDTH = 60, 120, 1
"""The histogram's edges and its bin width, GeV."""


def invariant_mass(event: Mapping[str, str]) -> float:
    """The mass of the pair in GeV, from transverse momenta (GeV), pseudorapidities and azimuths (rad).

    The muon's own mass (0.106 GeV) is left out: at these momenta it does not show.
    """
    pt1, eta1, phi1, pt2, eta2, phi2 = (float(event[name]) for name in ("pt1", "eta1", "phi1", "pt2", "eta2", "phi2"))
    return math.sqrt(2 * pt1 * pt2 * (math.cosh(eta1 - eta2) - math.cos(phi1 - phi2)))


def bounds(total: int, index: int, of: int) -> tuple[int, int]:
    """First row and the one after the last of slice `index`: contiguous, without gaps, even to one row."""
    return total * index // of, total * (index + 1) // of


def histogram(masses: Sequence[float]) -> dict[str, Any]:
    """Counts per bin, what fell outside, and the masses themselves (the exact median wants them)."""
    counts = [0] * ((HIGH - LOW) // WIDTH)
    for mass in masses:
        if LOW <= mass < HIGH:
            counts[int((mass - LOW) // WIDTH)] += 1
    return {
        "low": LOW,
        "high": HIGH,
        "width": WIDTH,
        "events": len(masses),
        "counts": counts,
        "underflow": sum(mass < LOW for mass in masses),
        "overflow": sum(mass >= HIGH for mass in masses),
        "masses": [round(mass, 4) for mass in masses],
    }


def main() -> int:
    """Reads the slice, writes the histogram; exit code 2 when the arguments make no sense."""
    parser = argparse.ArgumentParser(description="invariant mass of muon pairs in one slice of a CSV file")
    parser.add_argument("--slice", type=int, required=True, help="which slice, from 0")
    parser.add_argument("--of", type=int, required=True, help="how many slices there are")
    parser.add_argument("--events", type=Path, default=Path("Zmumu_Run2011A.csv"))
    chosen = parser.parse_args()
    if not 0 <= chosen.slice < chosen.of:
        parser.error(f"--slice {chosen.slice} is not between 0 and {chosen.of - 1}")
    with chosen.events.open(newline="") as lines:
        events = list(csv.DictReader(lines))
    first, last = bounds(len(events), chosen.slice, chosen.of)
    result = histogram([invariant_mass(event) for event in events[first:last]])
    Path(f"histogram-{chosen.slice}.json").write_text(json.dumps(result))
    sys.stdout.write(f"rows {first} to {last - 1}: {result['events']} events\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
