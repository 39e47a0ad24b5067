"""All cases and all rule sets, a table for each case, and whether we are as good as we promise."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path

import click

from tests.simulation import cases
from tests.simulation.cases import Scale
from tests.simulation.figures import judge, says, table
from tests.simulation.plots import draw
from tests.simulation.record import Result
from tests.simulation.runs import CONTESTANTS, simulate

SEED = 20_260_105


@click.command()
@click.option("--case", "names", multiple=True, type=click.Choice(cases.NAMES), help="again for more; all by default")
@click.option("--days", type=click.FloatRange(min=0.1, max=60), default=7.0, show_default=True, help="of arrivals")
@click.option("--queues", type=click.IntRange(1, 1_000), default=100, show_default=True, help="50 cores each")
@click.option("--seed", type=int, default=SEED, show_default=True, help="of the sites, the jobs and all chance")
@click.option("--capped", is_flag=True, help="hold the peers to the limit over all queues, too; they have none")
@click.option("--processes", type=click.IntRange(1, 64), default=2, show_default=True)
@click.option("--figures", type=click.Path(path_type=Path, dir_okay=False), help="JSON file for the figures")
@click.option("--plots", type=click.Path(path_type=Path, file_okay=False), help="folder for a picture of each case")
def main(  # noqa: PLR0917 -- one for each option
    names: Sequence[str],
    days: float,
    queues: int,
    seed: int,
    capped: bool,
    processes: int,
    figures: Path | None,
    plots: Path | None,
) -> None:
    """Simulate provisioning by our rules, and by those of SiteDirector and GlideinWMS, for the same jobs and sites.

    Exits with 1 when a case is not as expected: more waste or longer waits than allowed, or a cap exceeded.
    """
    scale = Scale(days, queues, capped)
    held = ", all held to the cap" if capped else ""
    click.echo(f"seed {seed}, {days:g} days, {queues} queues, {scale.pilots * cases.CORES:,} cores{held}")
    began = time.monotonic()
    chosen = [recipe for recipe in cases.RECIPES if recipe.name in (names or cases.NAMES)]
    verdicts = []
    everything: list[Result] = []
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        running = {
            recipe.name: [pool.submit(simulate, recipe.name, seed, scale, rules) for rules in CONTESTANTS]
            for recipe in chosen
        }
        for recipe in chosen:
            results = [future.result() for future in running[recipe.name]]
            verdict = judge(results, half_waste=recipe.half_waste)
            click.echo(f"\n{recipe.title}\n{table(results)}\n{says(verdict)}")
            verdicts.append(verdict)
            everything += results
            if plots is not None:
                draw(recipe.title, results, plots)
            if figures is not None:  # after each case, so that what is known is kept when it is ended before its end
                _store(figures, seed, scale, everything)
    misses = [verdict.case for verdict in verdicts if verdict.misses]
    click.echo(
        f"\ncore-hours, seconds; {len(verdicts) - len(misses)} of {len(verdicts)} cases as expected"
        f"{': not ' + ', '.join(misses) if misses else ''}; took {time.monotonic() - began:.0f} s"
    )
    sys.exit(int(bool(misses)))


def _store(to: Path, seed: int, scale: Scale, results: Sequence[Result]) -> None:
    rows = [{key: value for key, value in asdict(one).items() if key != "points"} for one in results]
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text(json.dumps({"seed": seed, **asdict(scale), "results": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
