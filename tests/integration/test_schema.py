"""Migrations make the schema that the code declares, on each kind of database."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import insert, inspect, text, update

from pipeline.errors import DatabaseUnavailable, SchemaMismatch
from pipeline.store import migration, schema
from pipeline.store.database import Database
from pipeline.store.tables import metadata, vos
from tests.servers import MariaDbServer

PREVIOUS = "0004"
"""The schema of the release before this one, 0.4.0."""


@pytest.fixture(params=["sqlite", "mariadb"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An empty database of each kind."""
    if request.param == "sqlite":
        opened = Database(f"sqlite:///{tmp_path / 'penstock.db'}")
    else:
        server: MariaDbServer = request.getfixturevalue("mariadb_server")
        opened = Database(server.new_database())
    yield opened
    opened.close()


def test_a_migrated_database_has_exactly_the_declared_tables(database: Database) -> None:
    migration.upgrade(database)
    with database.engine.begin() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_columns_that_alembic_does_not_compare_agree_too(database: Database, tmp_path: Path) -> None:
    """Defaults, collations and clustering: what the migration made says the same as what `create_all` makes."""
    migration.upgrade(database)
    migrated = _definitions(database)
    if database.dialect == "sqlite":
        fresh = Database(f"sqlite:///{tmp_path / 'fresh.db'}")
    else:
        with database.engine.begin() as connection:
            connection.exec_driver_sql("SET FOREIGN_KEY_CHECKS = 0")
            metadata.drop_all(connection)
        fresh = database
    metadata.create_all(fresh.engine)
    assert _definitions(fresh) == migrated
    fresh.close()


def _definitions(database: Database) -> dict[str, list[str]]:
    """Each table's definition as the server tells it, line by line, in no order."""
    query = (
        "SELECT sql FROM sqlite_master WHERE name = '{}'" if database.dialect == "sqlite" else "SHOW CREATE TABLE {}"
    )
    with database.engine.begin() as connection:
        made = {
            name: connection.exec_driver_sql(query.format(f"`{name}`" if "SHOW" in query else name)).all()[0][-1]
            for name in set(inspect(connection).get_table_names()) & set(metadata.tables)
        }
    # SQLite writes a column that was added later into the last line
    lines = {name: re.split(r",\s|\n", definition) for name, definition in made.items()}
    return {
        name: sorted(line.strip(" \t,()") for line in found if line.strip(" \t,()")) for name, found in lines.items()
    }


def test_the_schemas_that_we_know_are_those_of_the_migrations() -> None:
    revisions = ScriptDirectory.from_config(migration.configuration()).walk_revisions()
    assert schema.known() == [script.revision for script in revisions][::-1]


def test_an_empty_database_is_refused_with_the_command_that_mends_it(database: Database) -> None:
    with pytest.raises(SchemaMismatch, match=r"has no Penstock schema; run `penstock db upgrade`"):
        schema.check(database)


def test_an_older_schema_is_refused_with_the_command_that_mends_it(
    database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    migration.upgrade(database)
    ours = schema.head()
    _release_with_one_more_migration(monkeypatch, tmp_path)
    wanted = rf"has schema {ours}, this release works on 9999; run `penstock db upgrade`"
    with pytest.raises(SchemaMismatch, match=wanted):
        schema.check(database)


def test_the_previous_release_works_on_the_next_schema(
    database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as next_release:
        _release_with_one_more_migration(next_release, tmp_path)
        migration.upgrade(database)
    schema.check(database)
    assert migration.upgrade(database) == ("9999", "9999")


def test_all_that_the_previous_release_knows_is_still_there_unchanged(
    database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its processes go on beside ours until the upgrade is over, so a migration may only add what they need not know.

    What they write must be taken, and what they read must be told as before: each of their columns and keys
    is the same, and a column that was added is one that they may leave out.
    """
    with monkeypatch.context() as earlier:
        _release_of(earlier, tmp_path, PREVIOUS)
        migration.upgrade(database)
        theirs = _definitions(database)
    migration.upgrade(database)
    ours = _definitions(database)
    for name, lines in theirs.items():
        assert set(lines) <= set(ours[name])
        assert all("NOT NULL" not in line or "DEFAULT" in line for line in set(ours[name]) - set(lines))
    assert len(ours) > len(theirs)


def test_a_second_upgrade_changes_nothing(database: Database) -> None:
    assert migration.upgrade(database) == (None, schema.head())
    database.transact(lambda tx: tx.run(insert(vos).values(name="default")))
    assert migration.upgrade(database) == (schema.head(), schema.head())
    assert database.transact(lambda tx: tx.run(update(vos).values(name="kept"))) == 1


def test_two_upgrades_at_once_are_one(database: Database) -> None:
    found: list[tuple[str | None, str | None]] = []

    def upgrade() -> None:
        own = Database(database.engine.url.render_as_string(hide_password=False))
        found.append(migration.upgrade(own))
        own.close()

    threads = [threading.Thread(target=upgrade) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(found, key=str) == [(schema.head(), schema.head()), (None, schema.head())]


def test_an_upgrade_that_was_cut_off_can_be_run_again(database: Database) -> None:
    """MySQL commits each CREATE TABLE by itself, so a cut leaves a part behind."""
    migration.upgrade(database)
    with database.engine.begin() as connection:
        connection.execute(text("DROP TABLE controls"))
        connection.execute(text("DELETE FROM alembic_version"))
    migration.upgrade(database)
    assert set(inspect(database.engine).get_table_names()) == set(metadata.tables) | {"alembic_version"}


def test_a_statement_that_the_database_refuses_is_told_in_one_line(
    database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _release_with_one_more_migration(monkeypatch, tmp_path, "op.execute('CREATE NONSENSE')")
    with pytest.raises(DatabaseUnavailable, match=r"the upgrade stopped: .*run `penstock db upgrade` again"):
        migration.upgrade(database)


def _release_with_one_more_migration(
    monkeypatch: pytest.MonkeyPatch, folder: Path, statement: str = "op.execute('CREATE TABLE later (id INTEGER)')"
) -> None:
    following = f"revision = '9999'\ndown_revision = '{schema.head()}'"
    copy = _release_of(monkeypatch, folder, "9999")
    (copy / "versions" / "9999_later.py").write_text(
        f"from alembic import op\n{following}\n\n\ndef upgrade():\n    {statement}\n"
    )


def _release_of(monkeypatch: pytest.MonkeyPatch, folder: Path, newest: str) -> Path:
    """Take the migrations up to `newest` for all that there are; where they lie then."""
    copy = folder / "migrations"
    (copy / "versions").mkdir(parents=True)
    for path in [schema.MIGRATIONS / "env.py", *(schema.MIGRATIONS / "versions").glob("[0-9]*.py")]:
        if path.name[:4] <= newest or path.name == "env.py":
            (copy / path.relative_to(schema.MIGRATIONS)).write_text(path.read_text())
    monkeypatch.setattr(schema, "MIGRATIONS", copy)
    return copy
