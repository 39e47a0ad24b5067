"""Drains, wished workers, what queues need, and what is counted over the whole system."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql
from sqlalchemy.schema import SchemaItem

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_AT = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
_WORD = sa.String(length=16)
_COLUMNS = (
    ("bans", sa.Column("drain_id", _ID)),
    ("queue_loads", sa.Column("slots", sa.Integer())),
    ("job_events", sa.Column("core_seconds", sa.BigInteger())),
    ("campaigns", sa.Column("trace", sa.String(length=55))),
)
_INDEXES = (("bans", ("lifted_at",)), ("pilots", ("ended_at",)), ("deferred_messages", ("queue", "due_at")))


def upgrade() -> None:
    """Tables that the release before does not look at, and columns that it leaves out."""
    for table, column in _COLUMNS:
        there = {known["name"] for known in sa.inspect(op.get_bind()).get_columns(table)}
        if column.name not in there:  # MySQL commits each step: an upgrade that broke off goes on here
            op.add_column(table, column)
    for table, names in _INDEXES:
        index = _index(table, names)
        if index not in {known["name"] for known in sa.inspect(op.get_bind()).get_indexes(table)}:
            op.create_index(index, table, names)
    _create(
        "drains",
        sa.Column("id", _ID, autoincrement=True, nullable=False, primary_key=True),
        sa.Column("kind", _WORD, nullable=False),
        sa.Column("target", sa.String(length=200), nullable=False),
        sa.Column("vo_id", _ID, nullable=True),
        sa.Column("wished_by", sa.String(length=200), nullable=False),
        sa.Column("why", sa.String(length=500), nullable=False),
        sa.Column("started_at", _AT, nullable=False),
        sa.Column("deadline_at", _AT, nullable=True),
        sa.Column("kills", sa.Boolean(), nullable=False, server_default="0"),
        sa.Column("silent_since", _AT, nullable=True),
        sa.Column("drained_at", _AT, nullable=True),
        sa.Column("lifted_at", _AT, nullable=True),
        sa.Column("lifted_by", sa.String(length=200), nullable=True),
        sa.Column("told", _WORD, nullable=True),
    )
    _create(
        "worker_wishes",
        sa.Column("queue", sa.String(length=63), nullable=False),
        sa.Column("workers", sa.Integer(), nullable=False),
        sa.Column("wished_by", sa.String(length=200), nullable=False),
        sa.Column("wished_at", _AT, nullable=False),
        sa.PrimaryKeyConstraint("queue", name=op.f("pk_worker_wishes")),
    )
    _create(
        "queue_work",
        sa.Column("queue", sa.String(length=63), nullable=False),
        sa.Column("settled", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("busy_seconds", sa.Double(), nullable=False, server_default="0"),
        sa.PrimaryKeyConstraint("queue", name=op.f("pk_queue_work")),
    )
    _create(
        "queue_sizes",
        sa.Column("queue", sa.String(length=63), nullable=False),
        sa.Column("measured_at", _AT, nullable=False),
        sa.Column("settled", sa.BigInteger(), nullable=False),
        sa.Column("busy_seconds", sa.Double(), nullable=False),
        sa.Column("backlog", sa.Integer(), nullable=False),
        sa.Column("deferred", sa.Integer(), nullable=False),
        sa.Column("oldest_age", sa.Double(), nullable=True),
        sa.Column("arrivals", sa.Double(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=True),
        sa.Column("workers", sa.Integer(), nullable=False),
        sa.Column("wanted", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("queue", name=op.f("pk_queue_sizes")),
    )
    _create(
        "metric_values",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("labels", sa.String(length=255), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", "labels", name=op.f("pk_metric_values")),
    )


def downgrade() -> None:
    """Back to 0004."""
    for table in ("metric_values", "queue_sizes", "queue_work", "worker_wishes", "drains"):
        op.drop_table(table)
    for table, names in _INDEXES:
        op.drop_index(_index(table, names), table)
    for table, column in _COLUMNS:
        with op.batch_alter_table(table) as altered:
            altered.drop_column(column.name)


def _index(table: str, names: Sequence[str]) -> str:
    return "_".join(("ix", table, *names))


def _create(table: str, *parts: SchemaItem) -> None:
    op.create_table(table, *parts, mysql_collate="utf8mb4_bin", if_not_exists=True)
