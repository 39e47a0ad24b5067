#!/usr/bin/env python3
"""Adds the slices' histograms up: the spectrum's figures in zmumu.json, its picture in zmumu.png.

    python3 merge.py --of 24

reads histogram-0.json to histogram-23.json in the working directory.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

Z_MASS = 91.1876
"""GeV; Particle Data Group, Review of Particle Physics."""


def add_up(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The whole spectrum. Raises ValueError when the parts' bins differ."""
    binning = {(part["low"], part["high"], part["width"]) for part in parts}
    if len(binning) != 1:
        raise ValueError(f"the histograms have different bins: {sorted(binning)}")
    ((low, high, width),) = binning
    counts = [sum(column) for column in zip(*(part["counts"] for part in parts), strict=True)]
    peak = low + width * counts.index(max(counts))
    return {
        "events": sum(part["events"] for part in parts),
        "peak_bin": [peak, peak + width],
        "peak_count": max(counts),
        "median": round(statistics.median(mass for part in parts for mass in part["masses"]), 2),
        "underflow": sum(part["underflow"] for part in parts),
        "overflow": sum(part["overflow"] for part in parts),
        "low": low,
        "high": high,
        "width": width,
        "counts": counts,
        "unit": "GeV",
    }


def draw(spectrum: dict[str, Any], target: Path) -> None:
    """The spectrum as a PNG."""
    low, high, width, counts = (spectrum[name] for name in ("low", "high", "width", "counts"))
    edges = [low + width * index for index in range(len(counts) + 1)]
    centres = [edge + width / 2 for edge in edges[:-1]]
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.stairs(counts, edges, fill=True, color="#9ecae1")
    axes.errorbar(centres, counts, yerr=[count**0.5 for count in counts], fmt="k.", ms=4, lw=0.8, label="data, ±√n")
    axes.axvline(Z_MASS, color="#c0392b", ls="--", lw=1.2, label=f"Z mass, {Z_MASS:.2f} GeV (PDG)")
    axes.set(xlim=(low, high), ylim=(0, None))
    axes.set_xlabel("invariant mass of the muon pair [GeV]", fontsize=11)
    axes.set_ylabel(f"events / {width} GeV", fontsize=11)
    axes.set_title("Z → μμ: CMS open data, 7 TeV proton collisions, 2011", fontsize=12)
    lines = [
        f"{spectrum['events']:,} events",
        f"peak in [{spectrum['peak_bin'][0]}, {spectrum['peak_bin'][1]}) GeV",
        f"median {spectrum['median']:.2f} GeV",
    ]
    axes.text(0.035, 0.95, "\n".join(lines), transform=axes.transAxes, va="top", fontsize=11, linespacing=1.5)
    axes.legend(frameon=False, loc="upper right")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(target, dpi=150)


def main() -> int:
    """Reads every slice's histogram, writes zmumu.json and zmumu.png; a missing one is an error."""
    parser = argparse.ArgumentParser(description="adds the slices' histograms up")
    parser.add_argument("--of", type=int, required=True, help="how many slices there are")
    of = parser.parse_args().of
    spectrum = add_up([json.loads(Path(f"histogram-{index}.json").read_text()) for index in range(of)])
    Path("zmumu.json").write_text(json.dumps(spectrum, indent=1) + "\n")
    draw(spectrum, Path("zmumu.png"))
    low, high = spectrum["peak_bin"]
    sys.stdout.write(f"{spectrum['events']} events, peak [{low}, {high}) GeV, median {spectrum['median']:.2f} GeV\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
