"""Two trigger processes side by side, one of them killed between publishing and recording."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from functools import partial

from sqlalchemy import Column, DateTime, MetaData, String, Table, insert, select, update

from pipeline.store import trigger_runs
from pipeline.store.database import Database, Transaction
from pipeline.store.tables import trigger_runs as runs_table
from pipeline.store.trigger_runs import Run
from pipeline.transport.port import Transport, open_transport
from schemas.messages import CORE_BODIES, Tick, decode
from tests.servers import RedisServer
from tests.waiting import eventually

TICKS = 60
BODIES = {body.type_name(): body for body in CORE_BODIES}
effects = Table("tick_effects", MetaData(), Column("name", String(63)), Column("scheduled_for", DateTime))


def test_each_of_sixty_ticks_has_its_effect_once(database: Database, redis_server: RedisServer) -> None:
    redis_server.flush()
    effects.create(database.engine)
    processes = [_clock(database, redis_server, name, die_after) for name, die_after in (("a", 3), ("b", 0))]
    transport = open_transport(redis_server.url, "executor")
    received: Counter[tuple[str, str]] = Counter()
    try:
        dying = processes[0]
        eventually(lambda: _execute(database, transport, received) >= TICKS and dying.poll() is not None, within=120)
        assert dying.returncode == -9, "the first clock was killed on its way"
        # what the dead one had published and not recorded is published again by the other
        database.transact(lambda tx: tx.run(update(runs_table).values(claimed_at=tx.after(-trigger_runs.CLAIM - 1))))
        unpublished = select(runs_table.c.name).where(
            runs_table.c.published_at.is_(None), runs_table.c.claimed_by == "a", runs_table.c.skipped.is_(False)
        )
        eventually(lambda: not database.transact(lambda tx: tx.rows(unpublished)), within=20)
        eventually(lambda: _execute(database, transport, received) and max(received.values()) == 2, within=20)
    finally:
        for process in processes:
            process.kill()
            process.wait()
        transport.close()
    happened = Counter((r.name, str(r.scheduled_for)) for r in database.transact(lambda tx: tx.rows(select(effects))))
    assert set(happened.values()) == {1}
    executed = select(runs_table.c.name).where(runs_table.c.executed_at.is_not(None))
    assert len(database.transact(lambda tx: tx.rows(executed))) == len(happened) >= TICKS


def _clock(database: Database, server: RedisServer, name: str, die_after: int) -> subprocess.Popen[bytes]:
    arguments = [database.url, server.url, name, str(die_after)]
    return subprocess.Popen([sys.executable, "-m", "tests.integration.clock_process", *arguments])


def _execute(database: Database, transport: Transport, received: Counter[tuple[str, str]]) -> int:
    """Deal with what is there, as an executor does: the mark and the effect in one transaction."""
    deliveries = transport.receive("upkeep", 100, 0.2)
    for delivery in deliveries:
        body = decode(delivery.payload, BODIES).body
        assert isinstance(body, Tick)
        received[body.name, body.scheduled_for.isoformat()] += 1
        database.transact(partial(_have_effect, run=Run(body.name, body.scheduled_for)))
    transport.acknowledge(deliveries)
    return len(received)


def _have_effect(tx: Transaction, run: Run) -> None:
    if trigger_runs.mark_executed(tx, run):
        tx.run(insert(effects).values(name=run.name, scheduled_for=run.scheduled_for.replace(tzinfo=None)))
