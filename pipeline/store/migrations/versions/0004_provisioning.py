"""Limits of pilots, what a plan leaves to the next one, held pilots, outputs that are asked for; containers of nodes,
and why attempts ended in one word."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql
from sqlalchemy.schema import SchemaItem

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_AT = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
_LONG = sa.Text().with_variant(mysql.LONGTEXT, "mysql", "mariadb")
_WORD = sa.String(length=16)


def _columns() -> dict[str, list[sa.Column[Any]]]:
    """By table. All may be left out by the release before, which knows none."""
    of_pilots: list[sa.Column[Any]] = [
        sa.Column("runs_since", _AT, nullable=True),
        sa.Column("held_at", _AT, nullable=True),
        sa.Column("releases", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("idle_cycles", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("proxy_ends_at", _AT, nullable=True),
        sa.Column("output_wanted_at", _AT, nullable=True),
        sa.Column("output_at", _AT, nullable=True),
    ]
    return {
        "pilots": of_pilots,
        "attempts": [sa.Column("minor", sa.String(length=32), nullable=True)],
        "resources": [sa.Column("containers", sa.String(length=255), nullable=True)],
    }


_INDEXES = ("output_wanted_at", "requested_at")


def upgrade() -> None:
    """Columns that may be null or have defaults, indexes, and tables that the release before does not look at."""
    there = sa.inspect(op.get_bind())
    for table, columns in _columns().items():
        known = {column["name"] for column in there.get_columns(table)}
        for column in columns:
            if column.name not in known:  # MySQL commits each of them: an upgrade that broke off goes on here
                op.add_column(table, column)
    indexes = {index["name"] for index in there.get_indexes("pilots")}
    for name in _INDEXES:
        if _index(name) not in indexes:
            op.create_index(_index(name), "pilots", ["site_queue_id", name])
    _create(
        "pilot_caps",
        sa.Column("id", _ID, autoincrement=True, nullable=False, primary_key=True),
        sa.Column("kind", _WORD, nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("body", _LONG, nullable=False),
        sa.UniqueConstraint("kind", "name", name=op.f("uq_pilot_caps_kind_name")),
    )
    _create(
        "queue_plans",
        sa.Column("site_queue_id", _ID, nullable=False),
        sa.Column("vo_id", _ID, nullable=False),
        sa.Column("low_cycles", sa.Integer(), nullable=False),
        sa.Column("hold_until", _AT, nullable=True),
        sa.ForeignKeyConstraint(["site_queue_id"], ["site_queues.id"], name=op.f("fk_queue_plans_site_queue_id")),
        sa.ForeignKeyConstraint(["vo_id"], ["vos.id"], name=op.f("fk_queue_plans_vo_id")),
        sa.PrimaryKeyConstraint("site_queue_id", "vo_id", name=op.f("pk_queue_plans")),
    )


def downgrade() -> None:
    """Back to 0003."""
    for table in ("queue_plans", "pilot_caps"):
        op.drop_table(table)
    for name in _INDEXES:
        op.drop_index(_index(name), "pilots")
    for table, columns in _columns().items():
        with op.batch_alter_table(table) as altered:
            for column in reversed(columns):
                altered.drop_column(str(column.name))


def _index(column: str) -> str:
    return f"ix_pilots_site_queue_id_{column}"


def _create(table: str, *parts: SchemaItem) -> None:
    op.create_table(table, *parts, mysql_collate="utf8mb4_bin", if_not_exists=True)
