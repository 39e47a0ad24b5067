"""A database and its transactions: opened once per process, run again from their read when that can help."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from threading import get_ident
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, Row, Select, Table, create_engine, event, func, insert, select
from sqlalchemy.dialects import mysql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoFreeConnection
from sqlalchemy.pool import QueuePool
from sqlalchemy.sql import Executable
from structlog import get_logger

from pipeline.errors import BadSettings, DatabaseUnavailable
from pipeline.store.tables import UtcDateTime

T = TypeVar("T")

TRANSIENT_CODES = frozenset({1020, 1205, 1213, 1053, 1927, 1040, 1290, 2002, 2003, 2006, 2013, 4031})
"""Changed rows, lock waits, deadlocks, shutdowns, lost and refused connections: MySQL's and MariaDB's numbers."""
_CHANCE = random.SystemRandom()
MAX_TRIES = 8
IO_TIMEOUT = 20
BUSY_TIMEOUT = 10
PATIENCE = 5.0
"""Seconds that a thread waits for a free connection before it tries again."""
_KEPT = 4
CONNECTIONS = 44
"""A process's connections at most: one for each of the API's 40 threads, and for its own loops."""
_READ_ONLY = "penstock_read_only"
CHUNK = 1_000
"""Rows per statement where a caller's list has no bound of its own."""

_log = get_logger("database")


class Contended(Exception):
    """The rows are not as this transaction read them: run it again from its read."""


@dataclass(slots=True)
class Transaction:
    """One transaction. `now` is the database's clock when it began; nothing of the domain asks another one."""

    connection: Connection
    now: datetime
    told: list[Callable[[], object]] = field(default_factory=list)
    """What is to be said once it is committed."""

    def tell(self, say: Callable[..., object], event: str, **about: object) -> None:
        """Have `say` (a logger's method) say this once the transaction is committed, and not at all if it is not."""
        self.told.append(partial(say, event, **about))

    def after(self, seconds: float) -> datetime:
        """The database's time in so many seconds."""
        return self.now + timedelta(seconds=seconds)

    def run(self, statement: Executable) -> int:
        """Execute; the number of rows that it matched."""
        return self.connection.execute(statement).rowcount

    def rows(self, query: Select[Any]) -> Sequence[Row[Any]]:
        """All rows of a query."""
        return self.connection.execute(query).all()

    def lock(self, query: Select[Any], *, skip_locked: bool = False) -> Sequence[Row[Any]]:
        """All rows of a query, locked until the transaction ends (SQLite: it holds the only write lock)."""
        return self.connection.execute(query.with_for_update(skip_locked=skip_locked)).all()

    def share(self, query: Select[Any]) -> Sequence[Row[Any]]:
        """All rows of a query, which nobody may change until the transaction ends, but others may share."""
        return self.connection.execute(query.with_for_update(read=True)).all()

    def first(self, query: Select[Any]) -> Row[Any] | None:
        """The first row of a query, or None."""
        return self.connection.execute(query.limit(1)).first()

    def scalar(self, query: Select[Any]) -> Any:
        """The first value of the first row, or None."""
        return self.connection.execute(query).scalar()

    def add(self, table: Table, **values: Any) -> int:
        """Insert one row; its generated id (0 where the table generates none)."""
        key = self.connection.execute(insert(table).values(**values)).inserted_primary_key
        return int(key[0]) if key is not None and isinstance(key[0], int) else 0

    def add_all(self, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert rows, as few statements as the driver makes of it."""
        if rows:
            self.connection.execute(insert(table), rows)

    def add_missing(self, table: Table, rows: Sequence[Mapping[str, Any]]) -> int:
        """Insert the rows whose keys are not taken yet; how many were."""
        if not rows:
            return 0
        if self.connection.dialect.name == "sqlite":
            return self.connection.execute(sqlite.insert(table).on_conflict_do_nothing(), rows).rowcount
        statement = mysql.insert(table).prefix_with("IGNORE")
        return self.connection.execute(statement, rows).rowcount

    def put(self, table: Table, rows: Sequence[Mapping[str, Any]], update: Iterable[str]) -> None:
        """Insert rows; where the primary key is taken, set the columns `update` of that row instead."""
        if not rows:
            return
        if self.connection.dialect.name == "sqlite":
            upsert = sqlite.insert(table)
            key = [column.name for column in table.primary_key]
            changes = {name: upsert.excluded[name] for name in update}
            self.connection.execute(upsert.on_conflict_do_update(index_elements=key, set_=changes), rows)
            return
        replace = mysql.insert(table)
        self.connection.execute(replace.on_duplicate_key_update({n: replace.inserted[n] for n in update}), rows)


class Database:
    """An engine and the rule by which transactions are run again. One per process; safe to share by threads."""

    def __init__(self, url: str, *, patience: float = PATIENCE) -> None:
        self.url = url
        self._engine = _engine(url, {"pool_size": _KEPT, "max_overflow": CONNECTIONS - _KEPT, "pool_timeout": patience})
        self._reading = self._engine.execution_options(**{_READ_ONLY: True})
        self.dialect = self._engine.dialect.name
        self.retries = 0
        """Transactions that were run again so far; approximate where threads share the database."""
        self._waited = dict[int, float]()
        """Seconds that each thread which asked for something has lost since `take_waited`."""
        self.asking = set[int]()
        """The threads that wait for it now, or between two tries."""
        self._ahead = timedelta()

    @property
    def engine(self) -> Engine:
        """For migrations alone."""
        return self._engine

    def transact(self, work: Callable[[Transaction], T]) -> T:
        """Run `work` in a write transaction and commit; on a transient error, again from its first read.

        `work` must therefore have no effect but through its transaction. Raises DatabaseUnavailable when
        it went on failing.
        """
        return self._run(self._engine, work)

    def read(self, work: Callable[[Transaction], T]) -> T:
        """Run `work`, which only reads: on SQLite it then waits for no writer. Otherwise as `transact`."""
        return self._run(self._reading, work)

    def _run(self, engine: Engine, work: Callable[[Transaction], T]) -> T:
        thread = get_ident()
        self.asking.add(thread)
        self._waited.setdefault(thread, 0.0)
        try:
            return self._try(engine, work)
        finally:
            self.asking.discard(thread)

    def _try(self, engine: Engine, work: Callable[[Transaction], T]) -> T:
        for attempt in range(1, MAX_TRIES + 1):
            begun, is_connected = time.monotonic(), False
            try:
                with engine.begin() as connection:
                    is_connected = True
                    now = _now(connection)
                    self._ahead = now - datetime.now(UTC)
                    tx = Transaction(connection, now)
                    answer = work(tx)
            except (DBAPIError, NoFreeConnection, Contended) as error:
                if isinstance(error, DBAPIError) and not is_transient(error):
                    if is_connected:
                        raise
                    raise DatabaseUnavailable(f"{self.safe_url()}: {error.orig}") from error  # a wrong password, say
                reason = str(error.orig if isinstance(error, DBAPIError) else error)
                if attempt == MAX_TRIES:
                    raise DatabaseUnavailable(f"{self.safe_url()}: {reason}; gave up after {attempt} tries") from error
                self.retries += 1
                _log.warning("transaction_retried", error=reason, attempt=attempt)
                time.sleep(_CHANCE.uniform(0, min(2.0, 0.05 * 2**attempt)))
                self._waited[get_ident()] = self._waited.get(get_ident(), 0.0) + time.monotonic() - begun
            else:
                for say in tx.told:
                    say()
                return answer
        raise AssertionError("unreachable: the loop returns or raises")

    def take_waited(self) -> float:
        """Seconds that went into tries which failed, and into the waits after them, since this was last asked: what a
        thread lost, on average over all that asked the database for something."""
        waited, self._waited = self._waited, {}
        return sum(waited.values()) / max(1, len(waited))

    def now(self) -> datetime:
        """The database's clock."""
        return self.read(lambda tx: tx.now)

    def clock(self) -> datetime:
        """About what the database's clock says, without asking it: ours, and how they last differed."""
        return datetime.now(UTC) + self._ahead

    def safe_url(self) -> str:
        """The URL without its password."""
        return make_url(self.url).render_as_string(hide_password=True)

    def close(self) -> None:
        """Give every connection up."""
        self._engine.dispose()


def is_transient(error: DBAPIError) -> bool:
    """Whether the same transaction may well succeed when it is run again."""
    if error.connection_invalidated:
        return True
    if not isinstance(error, OperationalError) and type(error).__name__ != "InternalError":
        return False
    code = error.orig.args[0] if error.orig is not None and error.orig.args else None
    return code in TRANSIENT_CODES or "locked" in str(error.orig)


def can_pass(error: Exception) -> bool:
    """Whether this error makes a transaction begin again, and must therefore reach whoever runs it."""
    if isinstance(error, DBAPIError):
        return is_transient(error)
    return isinstance(error, (NoFreeConnection, Contended))


def in_chunks(ids: Sequence[T], size: int = CHUNK) -> Iterable[Sequence[T]]:
    """`ids` in order, at most `size` at a time."""
    return (ids[start : start + size] for start in range(0, len(ids), size))


def _now(connection: Connection) -> datetime:
    clock = (
        func.strftime("%Y-%m-%d %H:%M:%f", "now", type_=UtcDateTime)
        if connection.dialect.name == "sqlite"
        else func.utc_timestamp(6, type_=UtcDateTime)
    )
    moment = connection.execute(select(clock)).scalar_one()
    assert isinstance(moment, datetime)
    return moment


def _engine(url: str, pool: Mapping[str, Any]) -> Engine:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise BadSettings(f"PENSTOCK_DATABASE_URL is no database URL: {url!r}") from error
    try:
        if parsed.get_backend_name() == "sqlite":
            return _sqlite(parsed, pool)
        if parsed.get_backend_name() in {"mysql", "mariadb"}:
            return _mysql(parsed, pool)
    except ModuleNotFoundError as error:
        raise BadSettings("the driver for MySQL is not installed: pip install 'penstock[mysql]'") from error
    except SQLAlchemyError as error:
        raise BadSettings(f"PENSTOCK_DATABASE_URL: {error}") from error
    raise BadSettings(f"PENSTOCK_DATABASE_URL: {parsed.get_backend_name()!r} is not served; use mysql:// or sqlite:///")


def _mysql(url: URL, pool: Mapping[str, Any]) -> Engine:
    return create_engine(
        url.set(drivername="mysql+mysqldb"),
        isolation_level="READ COMMITTED",
        pool_recycle=600,
        **pool,
        connect_args={
            "charset": "utf8mb4",
            "connect_timeout": IO_TIMEOUT,
            "read_timeout": IO_TIMEOUT,
            "write_timeout": IO_TIMEOUT,
        },
    )


def _sqlite(url: URL, pool: Mapping[str, Any]) -> Engine:
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT}, poolclass=QueuePool, **pool)

    def prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    def begin(connection: Connection) -> None:
        is_read_only = connection.get_execution_options().get(_READ_ONLY, False)
        connection.exec_driver_sql("BEGIN" if is_read_only else "BEGIN IMMEDIATE")

    event.listen(engine, "connect", prepare)
    event.listen(engine, "begin", begin)
    return engine
