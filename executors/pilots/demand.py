"""Where the demand for pilots comes from: sources by entry point, of which the waiting jobs are one."""

from __future__ import annotations

from collections.abc import Callable

from executors.pilots.installed import load
from pipeline.errors import DemandUnknown
from pipeline.settings import Settings
from pipeline.store.database import Transaction, can_pass
from pipeline.store.provisioning_rows import DemandReading
from pipeline.store.waiting_demand import anything_waits, demand

GROUP = "penstock.demand_sources"

DemandSource = Callable[[Transaction, Settings], DemandReading]
"""What wants pilots now. It says itself whether that is sure to be all; whatever it raises, nothing is planned."""


def read_demand(tx: Transaction, settings: Settings) -> DemandReading:
    """What all sources of `settings.demand_sources` want together; sure when each of them is.

    Raises DemandUnknown for a source that fails or is not installed; what makes the transaction begin again passes.
    """
    readings = [_reading(name, tx, settings) for name in settings.demand_sources]
    wanted = tuple(one for reading in readings for one in reading.demand)
    return DemandReading(wanted, is_sure=all(reading.is_sure for reading in readings))


def waiting_jobs(tx: Transaction, _settings: Settings) -> DemandReading:
    """The jobs that wait, read in the transaction of the plan. That none waits is only believed when the jobs
    themselves say so, too."""
    wanted = tuple(demand(tx))
    return DemandReading(wanted, is_sure=bool(wanted) or not anything_waits(tx))


def _reading(name: str, tx: Transaction, settings: Settings) -> DemandReading:
    try:
        source: DemandSource = load(GROUP, name, what="demand source", where="PENSTOCK_DEMAND_SOURCES")
        return source(tx, settings)
    except Exception as error:
        if can_pass(error):
            raise
        raise DemandUnknown(f"demand source {name}: {type(error).__name__}: {error}") from error
