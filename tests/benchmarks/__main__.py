"""Run benchmarks: those named, or all but those that take minutes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import click

from tests.benchmarks import commands, demo, head_of_line, lifecycle, matching, optimisation, queues, scale, submission
from tests.benchmarks.figures import Figure, show, store

BENCHMARKS: Mapping[str, Callable[[], list[Figure]]] = {
    "submission": submission.measure,
    "optimisation": optimisation.measure,
    "demo": demo.measure,
    "commands": commands.measure,
    "head_of_line": head_of_line.measure,
    "queues": queues.measure,
    "lifecycle": lifecycle.measure,
    "matching": matching.measure,
    "matching-small": matching.measure_small,
    "scale": scale.measure,
}
APART = frozenset({"head_of_line", "queues", "lifecycle", "matching", "matching-small", "scale"})


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(BENCHMARKS)))
@click.option("--to", type=click.Path(path_type=Path), default=Path("build/bench"), help="where NAME.json goes")
def main(names: tuple[str, ...], to: Path) -> None:
    """Measure, print tables, and write NAME.json for each."""
    for name in names or [each for each in BENCHMARKS if each not in APART]:
        figures = BENCHMARKS[name]()
        show(name, figures)
        click.echo(f"written to {store(name, figures, to)}")


if __name__ == "__main__":
    main()
