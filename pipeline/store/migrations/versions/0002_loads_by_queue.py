"""What consumers say of each of their queues, for brokers that do not tell."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """One more table: the release before neither reads nor writes it."""
    op.create_table(
        "queue_loads",
        sa.Column("instance_id", sa.String(length=64), nullable=False),
        sa.Column("queue", sa.String(length=63), nullable=False),
        sa.Column("in_flight", sa.Integer(), nullable=False),
        sa.Column("oldest_age", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("instance_id", "queue", name=op.f("pk_queue_loads")),
        mysql_collate="utf8mb4_bin",
        if_not_exists=True,
    )


def downgrade() -> None:
    """Back to 0001."""
    op.drop_table("queue_loads")
