"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
LongText = sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
Exact = sa.String(500).with_variant(mysql.VARCHAR(500, collation="utf8mb4_bin"), "mysql", "mariadb")
UtcDateTime = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
Payload = sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")


def upgrade() -> None:  # noqa: PLR0915 - a migration is one list of statements
    """Bring the schema of an empty database to 0001."""
    op.create_table(
        "attempts",
        sa.Column("job_id", Id, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("pilot_id", Id, nullable=True),
        sa.Column("outcome", sa.String(length=32), nullable=False),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("reason", sa.String(length=1000), nullable=True),
        sa.Column("wall_time", sa.Float(), nullable=False),
        sa.Column("cpu_time", sa.Float(), nullable=False),
        sa.Column("memory", sa.Integer(), nullable=False),
        sa.Column("ended_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("job_id", "attempt", name=op.f("pk_attempts")),
        mysql_collate="utf8mb4_bin",
        if_not_exists=True,
    )
    op.create_table(
        "controls",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("value", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("note", sa.String(length=500), nullable=True),
        sa.Column("since", UtcDateTime, nullable=False),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_controls")),
        mysql_collate="utf8mb4_bin",
        if_not_exists=True,
    )
    op.create_table(
        "dead_letters",
        sa.Column("id", Id, autoincrement=True, nullable=False),
        sa.Column("message_id", sa.String(length=64), nullable=False),
        sa.Column("queue", sa.String(length=63), nullable=False),
        sa.Column("type", sa.String(length=63), nullable=False),
        sa.Column("payload", Payload, nullable=False),
        sa.Column("reason", sa.String(length=1000), nullable=False),
        sa.Column("traceback", LongText, nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dead_letters")),
        mysql_collate="utf8mb4_bin",
        if_not_exists=True,
    )
    _index("ix_dead_letters_queue_created_at", "dead_letters", ["queue", "created_at"])
    op.create_table(
        "deferred_messages",
        sa.Column("id", Id, autoincrement=True, nullable=False),
        sa.Column("message_id", sa.String(length=36), nullable=False),
        sa.Column("queue", sa.String(length=63), nullable=False),
        sa.Column("payload", LongText, nullable=False),
        sa.Column("reason", sa.String(length=1000), nullable=False),
        sa.Column("due_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deferred_messages")),
        mysql_collate="utf8mb4_bin",
        if_not_exists=True,
    )
    _index("ix_deferred_messages_due_at", "deferred_messages", ["due_at"])
    op.create_table(
        "deletions",
        sa.Column("id", Id, autoincrement=True, nullable=False),
        sa.Column("storage_id", Id, nullable=False),
        sa.Column("path", sa.String(length=1000), nullable=False),
        sa.Column("due_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deletions")),
        mysql_collate="utf8mb4_bin",
        if_not_exists=True,
    )
    _index("ix_deletions_due_at", "deletions", ["due_at"])
    op.create_table(
        "instances",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("queues", sa.String(length=500), nullable=False),
        sa.Column("version", sa.String(length=63), nullable=False),
        sa.Column("host", sa.String(length=200), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("health_url", sa.String(length=200), nullable=True),
        sa.Column("in_flight", sa.Integer(), nullable=False),
        sa.Column("oldest_age", sa.Float(), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("wish", sa.String(length=16), nullable=True),
        sa.Column("started_at", UtcDateTime, nullable=False),
        sa.Column("last_seen", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_instances")),
        mysql_collate="utf8mb4_bin",
        if_not_exists=True,
    )
    _index("ix_instances_last_seen", "instances", ["last_seen"])
    op.create_table(
        "job_events",
        sa.Column("id", Id, autoincrement=True, nullable=False),
        sa.Column("job_id", Id, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("from_state", sa.String(length=16), nullable=True),
        sa.Column("to_state", sa.String(length=16), nullable=False),
        sa.Column("pilot_id", Id, nullable=True),
        sa.Column("reason", sa.String(length=500), nullable=True),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job_events")),
        mysql_collate="utf8mb4_bin",
        if_not_exists=True,
    )
    _index("ix_job_events_job_id", "job_events", ["job_id"])
    op.create_table(
        "jobs",
        sa.Column("id", Id, autoincrement=True, nullable=False),
        sa.Column("vo_id", Id, nullable=False),
        sa.Column("campaign_id", Id, nullable=False),
        sa.Column("step_id", Id, nullable=False),
        sa.Column("spec_id", Id, nullable=False),
        sa.Column("array_index", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("priority", sa.Integer(), server_default="0", nullable=False),
        sa.Column("pilot_id", Id, nullable=True),
        sa.Column("site_id", Id, nullable=True),
        sa.Column("autocluster_id", Id, nullable=True),
        sa.Column("kill_requested", sa.Boolean(), server_default="0", nullable=False),
        sa.Column("absences", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("infrastructure_losses", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("payload_failures", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("reason", sa.String(length=500), nullable=True),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("changed_at", UtcDateTime, nullable=False),
        sa.Column("wake_at", UtcDateTime, nullable=True),
        sa.Column("dead_letter_id", Id, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
        mysql_collate="utf8mb4_bin",
        if_not_exists=True,
    )
    _index("ix_jobs_pilot_id_state", "jobs", ["pilot_id", "state"])
    _index("ix_jobs_step_id_state_wake_at", "jobs", ["step_id", "state", "wake_at"])
    _index("ix_jobs_wake_at", "jobs", ["wake_at"])
    op.create_table(
        "limits",
        sa.Column("id", Id, autoincrement=True, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("subject_id", Id, nullable=False),
        sa.Column("maximum", sa.Integer(), nullable=True),
        sa.Column("running", sa.Integer(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_limits")),
        sa.UniqueConstraint("kind", "subject_id", name=op.f("uq_limits_kind_subject_id")),
        mysql_collate="utf8mb4_bin",
        if_not_exists=True,
    )
    op.create_table(
        "peeks",
        sa.Column("job_id", Id, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("wall_time", sa.Float(), nullable=False),
        sa.Column("cpu_time", sa.Float(), nullable=False),
        sa.Column("memory", sa.Integer(), nullable=False),
        sa.Column("tail", LongText, nullable=False),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_peeks")),
        mysql_collate="utf8mb4_bin",
        if_not_exists=True,
    )
    op.create_table(
        "queue_controls",
        sa.Column("queue", sa.String(length=63), nullable=False),
        sa.Column("wish", sa.String(length=16), nullable=False),
        sa.Column("wished_by", sa.String(length=200), nullable=False),
        sa.Column("wished_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("queue", name=op.f("pk_queue_controls")),
        mysql_collate="utf8mb4_bin",
        if_not_exists=True,
    )
    op.create_table(
        "redeliveries",
        sa.Column("message_id", sa.String(length=64), nullable=False),
        sa.Column("deliveries", sa.Integer(), nullable=False),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("message_id", name=op.f("pk_redeliveries")),
        mysql_collate="utf8mb4_bin",
        if_not_exists=True,
    )
    op.create_table(
        "reported_outputs",
        sa.Column("job_id", Id, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("storage_id", Id, nullable=False),
        sa.Column("path", sa.String(length=1000), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("adler32", sa.String(length=8), nullable=False),
        sa.PrimaryKeyConstraint("job_id", "attempt", "name", name=op.f("pk_reported_outputs")),
        mysql_collate="utf8mb4_bin",
        if_not_exists=True,
    )
    op.create_table(
        "requirements",
        sa.Column("id", Id, autoincrement=True, nullable=False),
        sa.Column("signature", sa.String(length=64), nullable=False),
        sa.Column("body", LongText, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_requirements")),
        sa.UniqueConstraint("signature", name=op.f("uq_requirements_signature")),
        mysql_collate="utf8mb4_bin",
        if_not_exists=True,
    )
    op.create_table(
        "sites",
        sa.Column("id", Id, autoincrement=True, nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("declared", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sites")),
        sa.UniqueConstraint("name", name=op.f("uq_sites_name")),
        mysql_collate="utf8mb4_bin",
        if_not_exists=True,
    )
    op.create_table(
        "storages",
        sa.Column("id", Id, autoincrement=True, nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("kind", sa.String(length=63), nullable=False),
        sa.Column("url", sa.String(length=1000), nullable=False),
        sa.Column("declared", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_storages")),
        sa.UniqueConstraint("name", name=op.f("uq_storages_name")),
        mysql_collate="utf8mb4_bin",
        if_not_exists=True,
    )
    op.create_table(
        "trigger_runs",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("scheduled_for", UtcDateTime, nullable=False),
        sa.Column("claimed_by", sa.String(length=64), nullable=False),
        sa.Column("claimed_at", UtcDateTime, nullable=False),
        sa.Column("published_at", UtcDateTime, nullable=True),
        sa.Column("executed_at", UtcDateTime, nullable=True),
        sa.Column("skipped", sa.Boolean(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("name", "scheduled_for", name=op.f("pk_trigger_runs")),
        mysql_collate="utf8mb4_bin",
        if_not_exists=True,
    )
    _index("ix_trigger_runs_published_at", "trigger_runs", ["published_at"])
    op.create_table(
        "vos",
        sa.Column("id", Id, autoincrement=True, nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_vos")),
        sa.UniqueConstraint("name", name=op.f("uq_vos_name")),
        mysql_collate="utf8mb4_bin",
        if_not_exists=True,
    )
    op.create_table(
        "waiting_jobs",
        sa.Column("autocluster_id", Id, autoincrement=False, nullable=False),
        sa.Column("descent", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("job_id", Id, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("autocluster_id", "descent", "job_id", name=op.f("pk_waiting_jobs")),
        sqlite_with_rowid=False,
        mysql_collate="utf8mb4_bin",
        if_not_exists=True,
    )
    op.create_table(
        "autoclusters",
        sa.Column("id", Id, autoincrement=True, nullable=False),
        sa.Column("requirement_id", Id, nullable=False),
        sa.Column("vo_id", Id, nullable=False),
        sa.Column("group_id", Id, nullable=False),
        sa.Column("owner_id", Id, nullable=False),
        sa.Column("job_type", sa.String(length=63), nullable=False),
        sa.Column("wake_at", UtcDateTime, nullable=True),
        sa.Column("dead_letter_id", Id, nullable=True),
        sa.ForeignKeyConstraint(["requirement_id"], ["requirements.id"], name=op.f("fk_autoclusters_requirement_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_autoclusters")),
        sa.UniqueConstraint(
            "requirement_id",
            "vo_id",
            "group_id",
            "owner_id",
            "job_type",
            name=op.f("uq_autoclusters_requirement_id_vo_id_group_id_owner_id_job_type"),
        ),
        mysql_collate="utf8mb4_bin",
        if_not_exists=True,
    )
    _index("ix_autoclusters_wake_at", "autoclusters", ["wake_at"])
    op.create_table(
        "groups",
        sa.Column("id", Id, autoincrement=True, nullable=False),
        sa.Column("vo_id", Id, nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.ForeignKeyConstraint(["vo_id"], ["vos.id"], name=op.f("fk_groups_vo_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_groups")),
        sa.UniqueConstraint("vo_id", "name", name=op.f("uq_groups_vo_id_name")),
        mysql_collate="utf8mb4_bin",
        if_not_exists=True,
    )
    op.create_table(
        "sandboxes",
        sa.Column("vo_id", Id, nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.ForeignKeyConstraint(["vo_id"], ["vos.id"], name=op.f("fk_sandboxes_vo_id")),
        sa.PrimaryKeyConstraint("vo_id", "digest", name=op.f("pk_sandboxes")),
        mysql_collate="utf8mb4_bin",
        if_not_exists=True,
    )
    op.create_table(
        "site_queues",
        sa.Column("id", Id, autoincrement=True, nullable=False),
        sa.Column("site_id", Id, nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("entry", LongText, nullable=False),
        sa.Column("declared", sa.Boolean(), nullable=False),
        sa.Column("lease_owner", sa.String(length=64), nullable=True),
        sa.Column("lease_until", UtcDateTime, nullable=True),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("backoff_until", UtcDateTime, nullable=True),
        sa.Column("reason", sa.String(length=500), nullable=True),
        sa.Column("wake_at", UtcDateTime, nullable=True),
        sa.Column("dead_letter_id", Id, nullable=True),
        sa.ForeignKeyConstraint(["site_id"], ["sites.id"], name=op.f("fk_site_queues_site_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_site_queues")),
        sa.UniqueConstraint("site_id", "name", name=op.f("uq_site_queues_site_id_name")),
        mysql_collate="utf8mb4_bin",
        if_not_exists=True,
    )
    op.create_table(
        "site_storages",
        sa.Column("site_id", Id, nullable=False),
        sa.Column("storage_id", Id, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["site_id"], ["sites.id"], name=op.f("fk_site_storages_site_id")),
        sa.ForeignKeyConstraint(["storage_id"], ["storages.id"], name=op.f("fk_site_storages_storage_id")),
        sa.PrimaryKeyConstraint("site_id", "storage_id", name=op.f("pk_site_storages")),
        mysql_collate="utf8mb4_bin",
        if_not_exists=True,
    )
    op.create_table(
        "bans",
        sa.Column("id", Id, autoincrement=True, nullable=False),
        sa.Column("site_id", Id, nullable=False),
        sa.Column("site_queue_id", Id, nullable=True),
        sa.Column("vo_id", Id, nullable=True),
        sa.Column("banned_by", sa.String(length=200), nullable=False),
        sa.Column("why", sa.String(length=500), nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("until", UtcDateTime, nullable=True),
        sa.Column("lifted_at", UtcDateTime, nullable=True),
        sa.Column("lifted_by", sa.String(length=200), nullable=True),
        sa.ForeignKeyConstraint(["site_id"], ["sites.id"], name=op.f("fk_bans_site_id")),
        sa.ForeignKeyConstraint(["site_queue_id"], ["site_queues.id"], name=op.f("fk_bans_site_queue_id")),
        sa.ForeignKeyConstraint(["vo_id"], ["vos.id"], name=op.f("fk_bans_vo_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_bans")),
        mysql_collate="utf8mb4_bin",
        if_not_exists=True,
    )
    op.create_table(
        "enrolments",
        sa.Column("id", Id, autoincrement=True, nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("site_queue_id", Id, nullable=False),
        sa.Column("vo_id", Id, nullable=False),
        sa.Column("uses_left", sa.Integer(), nullable=False),
        sa.Column("expires_at", UtcDateTime, nullable=False),
        sa.ForeignKeyConstraint(["site_queue_id"], ["site_queues.id"], name=op.f("fk_enrolments_site_queue_id")),
        sa.ForeignKeyConstraint(["vo_id"], ["vos.id"], name=op.f("fk_enrolments_vo_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_enrolments")),
        sa.UniqueConstraint("digest", name=op.f("uq_enrolments_digest")),
        mysql_collate="utf8mb4_bin",
        if_not_exists=True,
    )
    op.create_table(
        "identities",
        sa.Column("id", Id, autoincrement=True, nullable=False),
        sa.Column("vo_id", Id, nullable=False),
        sa.Column("group_id", Id, nullable=False),
        sa.Column("issuer", sa.String(length=200), nullable=False),
        sa.Column("subject", sa.String(length=200), nullable=False),
        sa.ForeignKeyConstraint(["group_id"], ["groups.id"], name=op.f("fk_identities_group_id")),
        sa.ForeignKeyConstraint(["vo_id"], ["vos.id"], name=op.f("fk_identities_vo_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_identities")),
        sa.UniqueConstraint("vo_id", "issuer", "subject", name=op.f("uq_identities_vo_id_issuer_subject")),
        mysql_collate="utf8mb4_bin",
        if_not_exists=True,
    )
    op.create_table(
        "pilots",
        sa.Column("id", Id, autoincrement=True, nullable=False),
        sa.Column("tag", sa.String(length=36), nullable=False),
        sa.Column("site_queue_id", Id, nullable=False),
        sa.Column("site_id", Id, nullable=False),
        sa.Column("vo_id", Id, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("batch_id", sa.String(length=200), nullable=True),
        sa.Column("token_digest", sa.String(length=64), nullable=True),
        sa.Column("cores", sa.Integer(), nullable=False),
        sa.Column("remove_requested", sa.Boolean(), server_default="0", nullable=False),
        sa.Column("drain_requested", sa.Boolean(), server_default="0", nullable=False),
        sa.Column("failures_in_row", sa.Integer(), server_default="0", nullable=False),
        sa.Column("node", LongText, nullable=True),
        sa.Column("reason", sa.String(length=500), nullable=True),
        sa.Column("requested_at", UtcDateTime, nullable=False),
        sa.Column("submitted_at", UtcDateTime, nullable=True),
        sa.Column("started_at", UtcDateTime, nullable=True),
        sa.Column("last_seen", UtcDateTime, nullable=True),
        sa.Column("ends_at", UtcDateTime, nullable=True),
        sa.Column("ended_at", UtcDateTime, nullable=True),
        sa.ForeignKeyConstraint(["site_id"], ["sites.id"], name=op.f("fk_pilots_site_id")),
        sa.ForeignKeyConstraint(["site_queue_id"], ["site_queues.id"], name=op.f("fk_pilots_site_queue_id")),
        sa.ForeignKeyConstraint(["vo_id"], ["vos.id"], name=op.f("fk_pilots_vo_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pilots")),
        sa.UniqueConstraint("tag", name=op.f("uq_pilots_tag")),
        sa.UniqueConstraint("token_digest", name=op.f("uq_pilots_token_digest")),
        mysql_collate="utf8mb4_bin",
        if_not_exists=True,
    )
    _index("ix_pilots_site_queue_id_state", "pilots", ["site_queue_id", "state"])
    _index("ix_pilots_state_last_seen", "pilots", ["state", "last_seen"])
    op.create_table(
        "campaigns",
        sa.Column("id", Id, autoincrement=True, nullable=False),
        sa.Column("vo_id", Id, nullable=False),
        sa.Column("owner_id", Id, nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("ended_at", UtcDateTime, nullable=True),
        sa.ForeignKeyConstraint(["owner_id"], ["identities.id"], name=op.f("fk_campaigns_owner_id")),
        sa.ForeignKeyConstraint(["vo_id"], ["vos.id"], name=op.f("fk_campaigns_vo_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_campaigns")),
        mysql_collate="utf8mb4_bin",
        if_not_exists=True,
    )
    _index("ix_campaigns_vo_id_state", "campaigns", ["vo_id", "state"])
    op.create_table(
        "slots",
        sa.Column("pilot_id", Id, autoincrement=False, nullable=False),
        sa.Column("vo_id", Id, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("cores", sa.Integer(), nullable=False),
        sa.Column("memory", sa.Integer(), nullable=False),
        sa.Column("disk", sa.Integer(), nullable=False),
        sa.Column("ends_at", UtcDateTime, nullable=False),
        sa.Column("offered_at", UtcDateTime, nullable=False),
        sa.Column("wake_at", UtcDateTime, nullable=True),
        sa.Column("dead_letter_id", Id, nullable=True),
        sa.ForeignKeyConstraint(["pilot_id"], ["pilots.id"], name=op.f("fk_slots_pilot_id")),
        sa.PrimaryKeyConstraint("pilot_id", name=op.f("pk_slots")),
        mysql_collate="utf8mb4_bin",
        if_not_exists=True,
    )
    _index("ix_slots_state", "slots", ["state"])
    _index("ix_slots_wake_at", "slots", ["wake_at"])
    op.create_table(
        "tokens",
        sa.Column("id", Id, autoincrement=True, nullable=False),
        sa.Column("identity_id", Id, nullable=False),
        sa.Column("vo_id", Id, nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("expires_at", UtcDateTime, nullable=True),
        sa.Column("revoked_at", UtcDateTime, nullable=True),
        sa.ForeignKeyConstraint(["identity_id"], ["identities.id"], name=op.f("fk_tokens_identity_id")),
        sa.ForeignKeyConstraint(["vo_id"], ["vos.id"], name=op.f("fk_tokens_vo_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tokens")),
        sa.UniqueConstraint("digest", name=op.f("uq_tokens_digest")),
        mysql_collate="utf8mb4_bin",
        if_not_exists=True,
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("owner_id", Id, nullable=False),
        sa.Column("idempotency_key", sa.String(length=200), nullable=False),
        sa.Column("request_digest", sa.String(length=64), nullable=False),
        sa.Column("campaign_id", Id, nullable=True),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaigns.id"], name=op.f("fk_idempotency_keys_campaign_id")),
        sa.ForeignKeyConstraint(["owner_id"], ["identities.id"], name=op.f("fk_idempotency_keys_owner_id")),
        sa.PrimaryKeyConstraint("owner_id", "idempotency_key", name=op.f("pk_idempotency_keys")),
        mysql_collate="utf8mb4_bin",
        if_not_exists=True,
    )
    op.create_table(
        "steps",
        sa.Column("id", Id, autoincrement=True, nullable=False),
        sa.Column("campaign_id", Id, nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("after", sa.JSON(), nullable=False),
        sa.Column("min_success", sa.Float(), nullable=False),
        sa.Column("verify", sa.String(length=16), nullable=False),
        sa.Column("wake_at", UtcDateTime, nullable=True),
        sa.Column("dead_letter_id", Id, nullable=True),
        sa.Column("ended_at", UtcDateTime, nullable=True),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaigns.id"], name=op.f("fk_steps_campaign_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_steps")),
        sa.UniqueConstraint("campaign_id", "name", "version", name=op.f("uq_steps_campaign_id_name_version")),
        mysql_collate="utf8mb4_bin",
        if_not_exists=True,
    )
    _index("ix_steps_state", "steps", ["state"])
    op.create_table(
        "datasets",
        sa.Column("id", Id, autoincrement=True, nullable=False),
        sa.Column("vo_id", Id, nullable=False),
        sa.Column("step_id", Id, nullable=True),
        sa.Column("name", sa.String(length=300), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.ForeignKeyConstraint(["step_id"], ["steps.id"], name=op.f("fk_datasets_step_id")),
        sa.ForeignKeyConstraint(["vo_id"], ["vos.id"], name=op.f("fk_datasets_vo_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_datasets")),
        sa.UniqueConstraint("step_id", name=op.f("uq_datasets_step_id")),
        mysql_collate="utf8mb4_bin",
        if_not_exists=True,
    )
    op.create_table(
        "job_specs",
        sa.Column("id", Id, autoincrement=True, nullable=False),
        sa.Column("step_id", Id, nullable=False),
        sa.Column("template", LongText, nullable=False),
        sa.Column("sandbox", sa.String(length=64), nullable=True),
        sa.ForeignKeyConstraint(["step_id"], ["steps.id"], name=op.f("fk_job_specs_step_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job_specs")),
        mysql_collate="utf8mb4_bin",
        if_not_exists=True,
    )
    op.create_table(
        "files",
        sa.Column("id", Id, autoincrement=True, nullable=False),
        sa.Column("vo_id", Id, nullable=False),
        sa.Column("lfn", Exact, nullable=False),
        sa.Column("dataset_id", Id, nullable=True),
        sa.Column("job_id", Id, nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=True),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("adler32", sa.String(length=8), nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("wake_at", UtcDateTime, nullable=True),
        sa.Column("dead_letter_id", Id, nullable=True),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name=op.f("fk_files_dataset_id")),
        sa.ForeignKeyConstraint(["vo_id"], ["vos.id"], name=op.f("fk_files_vo_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_files")),
        sa.UniqueConstraint("vo_id", "lfn", name=op.f("uq_files_vo_id_lfn")),
        mysql_collate="utf8mb4_bin",
        if_not_exists=True,
    )
    _index("ix_files_dataset_id", "files", ["dataset_id"])
    _index("ix_files_job_id", "files", ["job_id"])
    _index("ix_files_wake_at", "files", ["wake_at"])
    op.create_table(
        "replicas",
        sa.Column("file_id", Id, nullable=False),
        sa.Column("storage_id", Id, nullable=False),
        sa.Column("path", sa.String(length=1000), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("checked_at", UtcDateTime, nullable=True),
        sa.ForeignKeyConstraint(["file_id"], ["files.id"], name=op.f("fk_replicas_file_id")),
        sa.ForeignKeyConstraint(["storage_id"], ["storages.id"], name=op.f("fk_replicas_storage_id")),
        sa.PrimaryKeyConstraint("file_id", "storage_id", name=op.f("pk_replicas")),
        mysql_collate="utf8mb4_bin",
        if_not_exists=True,
    )


def _index(name: str, table: str, columns: list[str]) -> None:
    """Create it, unless an upgrade that was cut off has: MySQL commits each statement by itself."""
    if name not in {index["name"] for index in sa.inspect(op.get_bind()).get_indexes(table)}:
        op.create_index(name, table, columns)


def downgrade() -> None:
    """Go back; only for development, since it loses data."""
    for table in (
        "replicas",
        "files",
        "job_specs",
        "datasets",
        "steps",
        "idempotency_keys",
        "tokens",
        "slots",
        "campaigns",
        "pilots",
        "identities",
        "enrolments",
        "bans",
        "site_storages",
        "site_queues",
        "sandboxes",
        "groups",
        "autoclusters",
        "waiting_jobs",
        "vos",
        "trigger_runs",
        "storages",
        "sites",
        "requirements",
        "reported_outputs",
        "redeliveries",
        "queue_controls",
        "peeks",
        "limits",
        "jobs",
        "job_events",
        "instances",
        "deletions",
        "deferred_messages",
        "dead_letters",
        "controls",
        "attempts",
    ):
        op.drop_table(table)
