"""What attempts are granted, fair shares, limits of any kind, kinds of nodes."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql
from sqlalchemy.schema import SchemaItem

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_AT = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
_LONG = sa.Text().with_variant(mysql.LONGTEXT, "mysql", "mariadb")


def _columns() -> list[tuple[str, sa.Column[Any]]]:
    """All of them may be left out by the release before, which knows none."""
    return [
        ("vos", sa.Column("share", sa.Double(), nullable=False, server_default="1")),
        *(("jobs", sa.Column(name, sa.Integer(), nullable=True)) for name in ("cores", "memory", "disk", "gpus")),
        ("jobs", sa.Column("alternative", sa.SmallInteger(), nullable=True)),
        ("jobs", sa.Column("charge", sa.BigInteger(), nullable=True)),
        ("jobs", sa.Column("matched_at", _AT, nullable=True)),
        ("bans", sa.Column("only_job_type", sa.String(length=63), nullable=True)),
        ("pilots", sa.Column("resource_id", _ID, nullable=True)),
        ("slots", sa.Column("gpus", sa.Integer(), nullable=False, server_default="0")),
        ("slots", sa.Column("reserved_for", _ID, nullable=True)),
    ]


def upgrade() -> None:
    """Columns that may be null or have defaults, and tables that the release before does not look at."""
    there = sa.inspect(op.get_bind())
    known = {table: {column["name"] for column in there.get_columns(table)} for table, _ in _columns()}
    for table, column in _columns():
        if column.name not in known[table]:  # MySQL commits each of them: an upgrade that broke off goes on here
            op.add_column(table, column)
    _create(
        "resources",
        _id(),
        sa.Column("signature", sa.String(length=64), nullable=False),
        sa.Column("body", _LONG, nullable=False),
        sa.UniqueConstraint("signature", name=op.f("uq_resources_signature")),
    )
    _create(
        "nodes",
        sa.Column("site_id", _ID, nullable=False),
        sa.Column("host", sa.String(length=200), nullable=False),
        sa.Column("bad_until", _AT, nullable=False),
        sa.Column("reason", sa.String(length=500), nullable=False),
        sa.Column("at", _AT, nullable=False),
        sa.ForeignKeyConstraint(["site_id"], ["sites.id"], name=op.f("fk_nodes_site_id")),
        sa.PrimaryKeyConstraint("site_id", "host", name=op.f("pk_nodes")),
    )
    _create(
        "limit_rules",
        _id(),
        sa.Column("vo_id", _ID, nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("rule", _LONG, nullable=False),
        sa.Column("declared", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["vo_id"], ["vos.id"], name=op.f("fk_limit_rules_vo_id")),
        sa.UniqueConstraint("vo_id", "name", name=op.f("uq_limit_rules_vo_id_name")),
    )
    _create(
        "start_rates",
        sa.Column("site_id", _ID, nullable=False),
        sa.Column("jobs", sa.Integer(), nullable=False),
        sa.Column("period", sa.Double(), nullable=False),
        sa.Column("tokens", sa.Double(), nullable=False),
        sa.Column("at", _AT, nullable=False),
        sa.ForeignKeyConstraint(["site_id"], ["sites.id"], name=op.f("fk_start_rates_site_id")),
        sa.PrimaryKeyConstraint("site_id", name=op.f("pk_start_rates")),
    )
    _create(
        "policies",
        sa.Column("vo_id", _ID, autoincrement=False, nullable=False),
        sa.Column("body", _LONG, nullable=False),
        sa.Column("applied_by", sa.String(length=200), nullable=False),
        sa.Column("applied_at", _AT, nullable=False),
        sa.ForeignKeyConstraint(["vo_id"], ["vos.id"], name=op.f("fk_policies_vo_id")),
        sa.PrimaryKeyConstraint("vo_id", name=op.f("pk_policies")),
    )
    _create(
        "usage",
        *(sa.Column(name, _ID, autoincrement=False, nullable=False) for name in ("vo_id", "group_id", "owner_id")),
        sa.Column("weight", sa.Double(), nullable=False),
        sa.Column("landmark", _AT, nullable=False),
        *(
            sa.Column(name, sa.BigInteger(), nullable=False, server_default="0")
            for name in ("charged", "settled", "used")
        ),
        sa.PrimaryKeyConstraint("vo_id", "group_id", "owner_id", name=op.f("pk_usage")),
    )
    _create(
        "releases",
        _id(),
        sa.Column("job_id", _ID, nullable=False),
        sa.Column("autocluster_id", _ID, nullable=True),
        sa.Column("site_id", _ID, nullable=True),
        sa.Column("cores", sa.Integer(), nullable=True),
        sa.Column("charge", sa.BigInteger(), nullable=True),
        sa.Column("is_started", sa.Boolean(), nullable=False),
        sa.Column("matched_at", _AT, nullable=True),
        sa.Column("ended_at", _AT, nullable=False),
    )


def downgrade() -> None:
    """Back to 0002."""
    for table in ("releases", "usage", "policies", "start_rates", "limit_rules", "nodes", "resources"):
        op.drop_table(table)
    for table, column in reversed(_columns()):
        with op.batch_alter_table(table) as altered:
            altered.drop_column(column.name)


def _id() -> sa.Column[int]:
    return sa.Column("id", _ID, autoincrement=True, nullable=False, primary_key=True)


def _create(table: str, *parts: SchemaItem) -> None:
    op.create_table(table, *parts, mysql_collate="utf8mb4_bin", if_not_exists=True)
