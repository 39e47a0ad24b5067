"""`db upgrade` while others use the tables: it waits for them, and they do not wait for it."""

from __future__ import annotations

from threading import Event, Thread

from alembic import command
from sqlalchemy import text

from pipeline.store import migration, schema
from pipeline.store.database import Database
from tests.servers import MariaDbServer
from tests.waiting import eventually

BEFORE = "0004"
"""A schema after which tables that everybody uses are changed."""


def test_an_upgrade_waits_for_a_transaction_and_keeps_nobody_else_from_its_tables(
    mariadb_server: MariaDbServer,
) -> None:
    database = Database(mariadb_server.new_database())
    with database.engine.connect() as connection:
        command.upgrade(migration.configuration(connection), BEFORE)
        connection.commit()
    looked = text("SELECT count(*) FROM pilots")
    upgrading = Thread(target=migration.upgrade, args=(database,))
    with database.engine.connect() as holder:
        holder.execute(looked)  # and its transaction stays open: nobody may change the table
        upgrading.start()
        waits = text("SELECT count(*) FROM information_schema.processlist WHERE state LIKE '%metadata lock%'")
        eventually(lambda: database.read(lambda tx: tx.connection.execute(waits).scalar()))
        for _ in range(3):
            assert database.read(lambda tx: tx.connection.execute(looked).scalar()) == 0
            Event().wait(0.5)
        assert upgrading.is_alive()
        assert database.retries == 0
        holder.rollback()
    upgrading.join(60)
    assert schema.current(database) == schema.head()
    database.close()
    mariadb_server.drop_database(database.url)
