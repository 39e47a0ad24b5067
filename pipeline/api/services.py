"""What the routes work with: opened once per API process, handed to the application."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Event
from typing import Annotated

from fastapi import Depends, Request

from pipeline.api.publisher import Publisher
from pipeline.api.system_metrics import SystemMetrics
from pipeline.api.vitals import Vitals
from pipeline.sandboxes import Sandboxes
from pipeline.settings import Settings
from pipeline.store.database import Database


@dataclass(eq=False, slots=True)
class Services:
    """The outside world of the routes."""

    settings: Settings
    """Those in force; a reload exchanges them, so routes read them when they are asked."""
    database: Database
    publisher: Publisher
    sandboxes: Sandboxes
    instance: str
    """The id of this API process."""
    stopping: Event = field(default_factory=Event)
    """Set when the process stops: requests that wait for something answer at once."""
    vitals: Vitals = field(default_factory=Vitals)
    metrics: SystemMetrics = field(default_factory=SystemMetrics)


def services_of(request: Request) -> Services:
    """The services of the application that a request came to."""
    services = request.app.state.services
    assert isinstance(services, Services)
    return services


ServicesOf = Annotated[Services, Depends(services_of)]
