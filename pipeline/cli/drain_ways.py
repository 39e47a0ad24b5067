"""Two ways to drain: what concerns everybody goes to the database, what concerns one VO through the API."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import click

from pipeline.cli.direct import opened_database, who
from pipeline.client import Client, open_client
from pipeline.runtime.spec import declared_queues
from pipeline.settings import Settings
from pipeline.store import drain_pilots, drain_reports, drains
from pipeline.store.database import Database
from pipeline.store.drains import EVERYTHING, Aim, Order
from schemas.api import MAX_PAGE
from schemas.drain_views import DrainKind, DrainQuery, DrainReport, DrainRequest, DrainScope, DrainView


@dataclass(frozen=True, slots=True)
class Chosen:
    """What the arguments name: an instance or a queue, or a site, a VO, a VO's part of a site, or everything."""

    target: str | None = None
    site: str | None = None
    vo: str | None = None
    everything: bool = False

    def aim(self) -> Aim:
        """What concerns everybody, as the database knows it."""
        if self.site is not None:
            return Aim(DrainKind.SITE, self.site)
        if self.target is not None:
            kind = DrainKind.QUEUE if self.target in declared_queues() else DrainKind.INSTANCE
            return Aim(kind, self.target)
        return Aim(DrainKind.ALL, EVERYTHING)

    def words(self) -> str:
        """It as it is typed."""
        options = (("--site", self.site), ("--vo", self.vo))
        typed = [f"{option} {name}" for option, name in options if name is not None]
        return " ".join(typed or [self.target or "--all"])


class Way(Protocol):
    """Begins, follows and lifts drains. Every call may raise PenstockErrors."""

    def start(self, chosen: Chosen, wanted: DrainRequest) -> DrainReport: ...

    def look(self, drain_id: int) -> DrainReport: ...

    def lift(self, chosen: Chosen) -> DrainView | None: ...

    def list(self, *, lifted: bool) -> list[DrainView]: ...


@dataclass(frozen=True, slots=True)
class Direct:
    """To the database: it works while the API is down."""

    database: Database

    def start(self, chosen: Chosen, wanted: DrainRequest) -> DrainReport:
        """Begin; the pilots concerned are told now, and their site queues look at them in their next round."""
        order = Order(who(), wanted.why, wanted.deadline, wanted.kill)
        drain = self.database.transact(lambda tx: drains.start(tx, chosen.aim(), order))
        drain_pilots.tell(self.database, drain)
        return self.look(drain.id)

    def look(self, drain_id: int) -> DrainReport:
        """How it stands: whoever sees that nothing is left latches it, for upkeep may be what is drained."""
        return drain_reports.judge(self.database, drain_id)

    def lift(self, chosen: Chosen) -> DrainView | None:
        """Take it back; upkeep looks at held jobs again in a moment."""
        lifted = self.database.transact(lambda tx: drains.lift(tx, chosen.aim(), who()))
        return None if lifted is None else lifted.view()

    def list(self, *, lifted: bool) -> list[DrainView]:
        """The newest first."""
        found = self.database.read(partial(drains.some, most=MAX_PAGE, lifted=lifted))
        return [drain.view() for drain in found]


@dataclass(frozen=True, slots=True)
class OverApi:
    """With a VO's token, which is all that its operators have."""

    client: Client

    def start(self, chosen: Chosen, wanted: DrainRequest) -> DrainReport:
        """Begin."""
        return self.client.start_drain(wanted.model_copy(update={"site": chosen.site, "vo": chosen.vo}))

    def look(self, drain_id: int) -> DrainReport:
        """How it stands."""
        return self.client.drain(drain_id)

    def lift(self, chosen: Chosen) -> DrainView | None:
        """Take it back."""
        return self.client.lift_drain(DrainScope(site=chosen.site, vo=chosen.vo)).lifted

    def list(self, *, lifted: bool) -> list[DrainView]:
        """The newest first."""
        return list(self.client.drains(DrainQuery(lifted=lifted, limit=MAX_PAGE)).items)


@contextmanager
def opened_way(settings: Settings, vo: str | None) -> Iterator[Way]:
    """The way for this VO, or for everybody."""
    if vo is None:
        with opened_database(settings) as database:
            yield Direct(database)
        return
    with open_client(settings) as client:
        mine = client.whoami().vo
        if vo != mine:
            raise click.UsageError(f"Your token is for the VO {mine}; {vo}'s operators drain {vo}.")
        yield OverApi(client)
