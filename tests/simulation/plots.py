"""A picture of a case: what was wanted, what the rule sets held, and what they wasted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt

from tests.simulation.record import Result
from tests.simulation.world import DAY

mpl.use("Agg")
SHOWN = {"Penstock": "#1b6ca8", "SiteDirector": "#d1495b", "GlideinWMS": "#edae49"}
"""The three, without the peers' other configurations, which would hide them."""


def draw(title: str, results: Sequence[Result], to: Path) -> None:
    """Write CASE.png into the folder."""
    shown = {one.rules: one for one in results if one.rules in SHOWN}
    figure, (cores, waste) = plt.subplots(2, 1, figsize=(8, 5.2), sharex=True, height_ratios=(3, 2))
    longest = max(shown.values(), key=lambda one: len(one.points))
    demand = shown["Penstock"].points
    cores.fill_between(
        [point.at / DAY for point in demand],
        [point.demand for point in demand],
        color="#dddddd",
        label="waiting and running jobs (under Penstock)",
    )
    for name, colour in SHOWN.items():
        points = shown[name].points
        days = [point.at / DAY for point in points]
        cores.plot(days, [point.running for point in points], color=colour, linewidth=0.9, label=name)
        waste.plot(days, [point.wasted for point in points], color=colour, linewidth=1.4, label=name)
    top = 1.15 * max(max(point.running for point in one.points) for one in shown.values())
    cores.set_ylim(0, top)
    cores.set_ylabel("cores")
    cores.set_title(title, loc="left", fontsize=10)
    cores.legend(loc="upper right", fontsize=7, ncols=4, frameon=False)
    waste.set_ylim(bottom=0)
    waste.set_ylabel("core-hours wasted")
    waste.set_xlabel("day")
    waste.set_xlim(0, longest.points[-1].at / DAY)
    for axes in (cores, waste):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    figure.tight_layout()
    to.mkdir(parents=True, exist_ok=True)
    figure.savefig(to / f"{longest.case}.png", dpi=80, metadata={"Software": None})
    plt.close(figure)
