"""Which rule sets compete, and one run of one of them, for a process of its own."""

from __future__ import annotations

from functools import partial

from tests.simulation import cases
from tests.simulation.cases import Scale
from tests.simulation.engine import Simulation
from tests.simulation.glideinwms import GlideinWms
from tests.simulation.penstock import Penstock
from tests.simulation.record import Result
from tests.simulation.rules import RulesFactory
from tests.simulation.site_director import SiteDirector

CONTESTANTS: dict[str, RulesFactory] = {
    "Penstock": Penstock,
    "SiteDirector": SiteDirector,
    "SiteDirector 9.0": partial(SiteDirector, per_queue=True),
    "GlideinWMS": GlideinWms,
    "GlideinWMS tracking": partial(GlideinWms, tracking=True),
}


def simulate(case: str, seed: int, scale: Scale, rules: str) -> Result:
    """One rule set in one case."""
    return Simulation(cases.make(case, seed, scale), CONTESTANTS[rules]).run().result()
