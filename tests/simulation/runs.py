"""One run of the simulation, for a process of its own."""

from __future__ import annotations

from tests.simulation import cases
from tests.simulation.cases import Scale
from tests.simulation.engine import Simulation
from tests.simulation.figures import CONTESTANTS
from tests.simulation.record import Result


def simulate(case: str, seed: int, scale: Scale, rules: str) -> Result:
    """One rule set in one case."""
    return Simulation(cases.make(case, seed, scale), CONTESTANTS[rules]).run().result()
