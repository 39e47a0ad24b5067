"""The long form: every broker, tens of thousands of messages, every kind of fault; a table at the end."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from tests.chaos import brokers, flushed_jobs, total_queue
from tests.chaos.nemesis import draw
from tests.chaos.report import Outcome, show, store
from tests.servers import running_mariadb, running_redis

JOBS = "jobs"
FAULTS = 20
"""Faults of each run."""


@click.command()
@click.argument("names", metavar="[BROKER]...", nargs=-1, type=click.Choice([*brokers.BROKERS, JOBS]))
@click.option("--seed", type=int, help="of the faults; PENSTOCK_TEST_SEED, or a new one")
@click.option("--messages", type=click.IntRange(1_000, 5_000_000), default=50_000, show_default=True)
@click.option("--to", type=click.Path(path_type=Path), default=Path("build/chaos"), help="where SEED.json goes")
def main(names: Sequence[str], seed: int | None, messages: int, to: Path) -> None:
    """Send messages through brokers while faults strike at random, and say what became of them.

    Exits with 1 when anything confirmed was lost, or anything came that was never sent.
    """
    # Told to end, it ends the servers and processes that it has started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    seed = _seed() if seed is None else seed
    click.echo(f"seed {seed}")
    outcomes: list[Outcome] = []
    failed = False
    for name in names or (*brokers.BROKERS, JOBS):
        folder = to.absolute() / f"{seed}-{name}"
        shutil.rmtree(folder, ignore_errors=True)
        try:
            outcome = _run(name, seed, messages, folder)
        except AssertionError as error:
            failed = True
            click.echo(f"{name}: {error}\nits histories and logs are in {folder}", err=True)
            continue
        outcomes.append(outcome)
        click.echo(f"{name}: {'nothing lost' if outcome.verdict.holds else f'FAILED, histories are in {folder}'}")
        if outcome.verdict.holds:
            shutil.rmtree(folder)
    show(seed, outcomes)
    store(seed, outcomes, to / f"{seed}.json")
    click.echo(f"written to {to / f'{seed}.json'}; `python -m tests.chaos --seed {seed}` draws the same faults")
    sys.exit(int(failed or not all(outcome.verdict.holds for outcome in outcomes)))


def _seed() -> int:
    given = os.environ.get("PENSTOCK_TEST_SEED")
    return int(given) if given else random.SystemRandom().randrange(1 << 32)


def _run(name: str, seed: int, messages: int, folder: Path) -> Outcome:
    if name == JOBS:
        faults = draw(f"{seed} {name}", flushed_jobs.LONG, FAULTS)
        with running_mariadb() as mariadb, running_redis() as redis:
            return flushed_jobs.run(redis, mariadb.new_database(), folder, size=messages, faults=faults)
    faults = draw(f"{seed} {name}", brokers.LONG, FAULTS)
    with brokers.BROKERS[name]() as target:
        return total_queue.run(target, folder, messages=messages, faults=faults)


if __name__ == "__main__":
    main()
