"""The schema, common to MySQL 8, MariaDB 10.6+ and SQLite. Migrations bring databases to it.

Times are UTC and come from the database's own clock. A row that somebody must act on carries
`wake_at` (reconcile looks at it then) and `dead_letter_id` (reconcile leaves it alone).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Double,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

Id = BigInteger().with_variant(Integer, "sqlite")
LongText = Text().with_variant(mysql.LONGTEXT, "mysql", "mariadb")
Word = String(16)
Exact = String(500).with_variant(mysql.VARCHAR(500, collation="utf8mb4_bin"), "mysql", "mariadb")
"""A name compared byte by byte: MySQL's usual collation would take A for a."""


class UtcDateTime(TypeDecorator[datetime]):
    """Aware datetimes outside, UTC with microseconds inside."""

    impl = DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        del dialect
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        del dialect
        return None if value is None else value.replace(tzinfo=UTC)


def _id() -> Column[int]:
    return Column("id", Id, primary_key=True, autoincrement=True)


def _ref(name: str, target: str, *, nullable: bool = False) -> Column[int]:
    return Column(name, Id, ForeignKey(f"{target}.id"), nullable=nullable)


def _at(name: str, *, nullable: bool = False) -> Column[datetime]:
    return Column(name, UtcDateTime, nullable=nullable)


def _wake() -> list[Column[Any]]:
    return [_at("wake_at", nullable=True), Column("dead_letter_id", Id)]


vos = Table(
    "vos",
    metadata,
    _id(),
    Column("name", String(63), nullable=False, unique=True),
    Column("share", Double, nullable=False, server_default="1"),
)
"""`share` is the VO's part of the pilots of a site queue that several VOs want."""

groups = Table(
    "groups",
    metadata,
    _id(),
    _ref("vo_id", "vos"),
    Column("name", String(63), nullable=False),
    UniqueConstraint("vo_id", "name"),
)

identities = Table(
    "identities",
    metadata,
    _id(),
    _ref("vo_id", "vos"),
    _ref("group_id", "groups"),
    Column("issuer", String(200), nullable=False),
    Column("subject", String(200), nullable=False),
    UniqueConstraint("vo_id", "issuer", "subject"),
)

tokens = Table(
    "tokens",
    metadata,
    _id(),
    _ref("identity_id", "identities"),
    _ref("vo_id", "vos"),
    Column("role", Word, nullable=False),
    Column("name", String(63), nullable=False),
    Column("digest", String(64), nullable=False, unique=True),
    _at("created_at"),
    _at("expires_at", nullable=True),
    _at("revoked_at", nullable=True),
)

sandboxes = Table(
    "sandboxes",
    metadata,
    Column("vo_id", Id, ForeignKey("vos.id"), primary_key=True, autoincrement=False),
    Column("digest", String(64), primary_key=True),
    Column("size", BigInteger, nullable=False),
    _at("created_at"),
)

campaigns = Table(
    "campaigns",
    metadata,
    _id(),
    _ref("vo_id", "vos"),
    _ref("owner_id", "identities"),
    Column("name", String(200), nullable=False),
    Column("state", Word, nullable=False),
    _at("created_at"),
    _at("ended_at", nullable=True),
    Column("trace", String(55)),
    Index("ix_campaigns_vo_id_state", "vo_id", "state"),
)
"""`trace` is the W3C traceparent that came with the submission."""

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("owner_id", Id, ForeignKey("identities.id"), primary_key=True),
    Column("idempotency_key", String(200), primary_key=True),
    Column("request_digest", String(64), nullable=False),
    Column("campaign_id", Id, ForeignKey("campaigns.id"), nullable=True),
    _at("created_at"),
)

steps = Table(
    "steps",
    metadata,
    _id(),
    _ref("campaign_id", "campaigns"),
    Column("name", String(63), nullable=False),
    Column("version", Integer, nullable=False),
    Column("position", Integer, nullable=False),
    Column("state", Word, nullable=False),
    Column("after", JSON, nullable=False),
    Column("min_success", Float, nullable=False),
    Column("verify", Word, nullable=False),
    *_wake(),
    _at("ended_at", nullable=True),
    UniqueConstraint("campaign_id", "name", "version"),
    Index("ix_steps_state", "state"),
)

job_specs = Table(
    "job_specs",
    metadata,
    _id(),
    _ref("step_id", "steps"),
    Column("template", LongText, nullable=False),
    Column("sandbox", String(64)),
)

jobs = Table(
    "jobs",
    metadata,
    _id(),
    Column("vo_id", Id, nullable=False),
    Column("campaign_id", Id, nullable=False),
    Column("step_id", Id, nullable=False),
    Column("spec_id", Id, nullable=False),
    Column("array_index", Integer, nullable=False),
    Column("state", Word, nullable=False),
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column("priority", Integer, nullable=False, server_default="0"),
    Column("pilot_id", Id),
    Column("site_id", Id),
    Column("autocluster_id", Id),
    Column("kill_requested", Boolean, nullable=False, server_default="0"),
    Column("absences", SmallInteger, nullable=False, server_default="0"),
    Column("infrastructure_losses", SmallInteger, nullable=False, server_default="0"),
    Column("payload_failures", SmallInteger, nullable=False, server_default="0"),
    Column("exit_code", Integer),
    Column("reason", String(500)),
    _at("created_at"),
    _at("changed_at"),
    *_wake(),
    Column("cores", Integer),
    Column("memory", Integer),
    Column("disk", Integer),
    Column("gpus", Integer),
    Column("alternative", SmallInteger),
    Column("charge", BigInteger),
    _at("matched_at", nullable=True),
    Index("ix_jobs_step_id_state_wake_at", "step_id", "state", "wake_at"),
    Index("ix_jobs_wake_at", "wake_at"),
    Index("ix_jobs_pilot_id_state", "pilot_id", "state"),
)
"""Narrow, and without foreign keys on the hot path; the template is in job_specs.

The last seven columns are what the present attempt was granted: cores, MiB of memory and of disk, GPUs, by which of
the requirement's specifications, the core-seconds that its share was charged, and when. They are null for attempts
that the release before 0.3.0 assigned."""

job_events = Table(
    "job_events",
    metadata,
    _id(),
    Column("job_id", Id, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("from_state", Word),
    Column("to_state", Word, nullable=False),
    Column("pilot_id", Id),
    Column("reason", String(500)),
    _at("at"),
    Column("core_seconds", BigInteger),
    Index("ix_job_events_job_id", "job_id"),
)
"""`core_seconds` stands where an attempt that had begun gave its cores back: what it took of them. A release before
0.5.0 leaves it NULL."""

attempts = Table(
    "attempts",
    metadata,
    Column("job_id", Id, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("pilot_id", Id),
    Column("outcome", String(32), nullable=False),
    Column("exit_code", Integer),
    Column("reason", String(1000)),
    Column("wall_time", Float, nullable=False),
    Column("cpu_time", Float, nullable=False),
    Column("memory", Integer, nullable=False),
    _at("ended_at"),
    Column("minor", String(32)),
)
"""What a pilot reported of an attempt that ended; refused reports leave no row."""

peeks = Table(
    "peeks",
    metadata,
    Column("job_id", Id, primary_key=True),
    Column("attempt", Integer, nullable=False),
    Column("wall_time", Float, nullable=False),
    Column("cpu_time", Float, nullable=False),
    Column("memory", Integer, nullable=False),
    Column("tail", LongText, nullable=False),
    _at("at"),
)
"""The last lines of running jobs, from heartbeats."""

requirements = Table(
    "requirements",
    metadata,
    _id(),
    Column("signature", String(64), nullable=False, unique=True),
    Column("body", LongText, nullable=False),
)

autoclusters = Table(
    "autoclusters",
    metadata,
    _id(),
    _ref("requirement_id", "requirements"),
    Column("vo_id", Id, nullable=False),
    Column("group_id", Id, nullable=False),
    Column("owner_id", Id, nullable=False),
    Column("job_type", String(63), nullable=False),
    *_wake(),
    UniqueConstraint("requirement_id", "vo_id", "group_id", "owner_id", "job_type"),
    Index("ix_autoclusters_wake_at", "wake_at"),
)

waiting_jobs = Table(
    "waiting_jobs",
    metadata,
    Column("autocluster_id", Id, primary_key=True, autoincrement=False),
    Column("descent", Integer, primary_key=True, autoincrement=False),
    Column("job_id", Id, primary_key=True, autoincrement=False),
    sqlite_with_rowid=False,
)
"""Clustered so that a pop is a range read; `descent` is the negated priority, so that high ones come first."""

sites = Table(
    "sites",
    metadata,
    _id(),
    Column("name", String(63), nullable=False, unique=True),
    Column("declared", Boolean, nullable=False),
)

storages = Table(
    "storages",
    metadata,
    _id(),
    Column("name", String(63), nullable=False, unique=True),
    Column("kind", String(63), nullable=False),
    Column("url", String(1000), nullable=False),
    Column("declared", Boolean, nullable=False),
)

site_storages = Table(
    "site_storages",
    metadata,
    Column("site_id", Id, ForeignKey("sites.id"), primary_key=True),
    Column("storage_id", Id, ForeignKey("storages.id"), primary_key=True),
    Column("position", Integer, nullable=False),
)

site_queues = Table(
    "site_queues",
    metadata,
    _id(),
    _ref("site_id", "sites"),
    Column("name", String(63), nullable=False),
    Column("entry", LongText, nullable=False),
    Column("declared", Boolean, nullable=False),
    Column("lease_owner", String(64)),
    _at("lease_until", nullable=True),
    Column("failures", Integer, nullable=False, server_default="0"),
    _at("backoff_until", nullable=True),
    Column("reason", String(500)),
    *_wake(),
    UniqueConstraint("site_id", "name"),
)

bans = Table(
    "bans",
    metadata,
    _id(),
    _ref("site_id", "sites"),
    _ref("site_queue_id", "site_queues", nullable=True),
    _ref("vo_id", "vos", nullable=True),
    Column("banned_by", String(200), nullable=False),
    Column("why", String(500), nullable=False),
    _at("created_at"),
    _at("until", nullable=True),
    _at("lifted_at", nullable=True),
    Column("lifted_by", String(200)),
    Column("only_job_type", String(63)),
    Column("drain_id", Id),
    Index("ix_bans_lifted_at", "lifted_at"),
)
"""Never overwritten by `sites apply`; in force until `until`, or until lifted. With `only_job_type` it is test mode:
jobs of that type may run there, others may not."""

enrolments = Table(
    "enrolments",
    metadata,
    _id(),
    Column("digest", String(64), nullable=False, unique=True),
    _ref("site_queue_id", "site_queues"),
    _ref("vo_id", "vos"),
    Column("uses_left", Integer, nullable=False),
    _at("expires_at"),
)

pilots = Table(
    "pilots",
    metadata,
    _id(),
    Column("tag", String(36), nullable=False, unique=True),
    _ref("site_queue_id", "site_queues"),
    _ref("site_id", "sites"),
    _ref("vo_id", "vos"),
    Column("state", Word, nullable=False),
    Column("batch_id", String(200)),
    Column("token_digest", String(64), unique=True),
    Column("cores", Integer, nullable=False),
    Column("remove_requested", Boolean, nullable=False, server_default="0"),
    Column("drain_requested", Boolean, nullable=False, server_default="0"),
    Column("failures_in_row", Integer, nullable=False, server_default="0"),
    Column("node", LongText),
    Column("resource_id", Id),
    Column("reason", String(500)),
    _at("requested_at"),
    _at("submitted_at", nullable=True),
    _at("started_at", nullable=True),
    _at("last_seen", nullable=True),
    _at("ends_at", nullable=True),
    _at("ended_at", nullable=True),
    _at("runs_since", nullable=True),
    _at("held_at", nullable=True),
    Column("releases", Integer, nullable=False, server_default="0"),
    Column("idle_cycles", Integer, nullable=False, server_default="0"),
    _at("proxy_ends_at", nullable=True),
    _at("output_wanted_at", nullable=True),
    _at("output_at", nullable=True),
    Index("ix_pilots_site_queue_id_output_wanted_at", "site_queue_id", "output_wanted_at"),
    Index("ix_pilots_ended_at", "ended_at"),
    Index("ix_pilots_site_queue_id_requested_at", "site_queue_id", "requested_at"),
    Index("ix_pilots_site_queue_id_state", "site_queue_id", "state"),
    Index("ix_pilots_state_last_seen", "state", "last_seen"),
)

pilot_caps = Table(
    "pilot_caps",
    metadata,
    _id(),
    Column("kind", Word, nullable=False),
    Column("name", String(63), nullable=False),
    Column("body", LongText, nullable=False),
    UniqueConstraint("kind", "name"),
)

queue_plans = Table(
    "queue_plans",
    metadata,
    Column("site_queue_id", Id, ForeignKey("site_queues.id"), primary_key=True, autoincrement=False),
    Column("vo_id", Id, ForeignKey("vos.id"), primary_key=True, autoincrement=False),
    Column("low_cycles", Integer, nullable=False),
    _at("hold_until", nullable=True),
)
"""What a cycle of provisioning leaves to the next one."""

slots = Table(
    "slots",
    metadata,
    Column("pilot_id", Id, ForeignKey("pilots.id"), primary_key=True, autoincrement=False),
    Column("vo_id", Id, nullable=False),
    Column("state", Word, nullable=False),
    Column("cores", Integer, nullable=False),
    Column("memory", Integer, nullable=False),
    Column("disk", Integer, nullable=False),
    _at("ends_at"),
    _at("offered_at"),
    *_wake(),
    Column("gpus", Integer, nullable=False, server_default="0"),
    Column("reserved_for", Id),
    Index("ix_slots_state", "state"),
    Index("ix_slots_wake_at", "wake_at"),
)
"""One row per pilot that asked for jobs: offered (matching shall look), parked (nothing fitted yet, or room is left),
full (no core is left; its next offer says what is free then), served (jobs wait for the pilot to fetch them).

Its lock is the pilot's lock. `reserved_for` is an autocluster whose jobs need more than is free there and have waited
so long that narrower ones shall not take what becomes free."""

resources = Table(
    "resources",
    metadata,
    _id(),
    Column("signature", String(64), nullable=False, unique=True),
    Column("body", LongText, nullable=False),
    Column("containers", String(255)),
)
"""What pilots found their nodes to be like, each kind of node once. `containers`: names with commas between them, and
no part of `body`, which release 0.3.0 must be able to read."""

nodes = Table(
    "nodes",
    metadata,
    Column("site_id", Id, ForeignKey("sites.id"), primary_key=True),
    Column("host", String(200), primary_key=True),
    _at("bad_until"),
    Column("reason", String(500), nullable=False),
    _at("at"),
)
"""Nodes that failed job after job: no pilot there gets a job until `bad_until`."""

limits = Table(
    "limits",
    metadata,
    _id(),
    Column("kind", Word, nullable=False),
    Column("subject_id", Id, nullable=False),
    Column("maximum", Integer),
    Column("running", Integer, nullable=False, server_default="0"),
    UniqueConstraint("kind", "subject_id"),
)
"""Running jobs counted against a maximum: of kind `site` by site id, of kind `rule` by the id of a limit rule."""

limit_rules = Table(
    "limit_rules",
    metadata,
    _id(),
    _ref("vo_id", "vos"),
    Column("name", String(63), nullable=False),
    Column("rule", LongText, nullable=False),
    Column("declared", Boolean, nullable=False),
    UniqueConstraint("vo_id", "name"),
)
"""A VO's own limits, as its policy declares them; a rule that is declared no more limits nothing."""

start_rates = Table(
    "start_rates",
    metadata,
    Column("site_id", Id, ForeignKey("sites.id"), primary_key=True),
    Column("jobs", Integer, nullable=False),
    Column("period", Double, nullable=False),
    Column("tokens", Double, nullable=False),
    _at("at"),
)
"""So many jobs per `period` seconds may start at a site: a bucket that held `tokens` at that moment."""

policies = Table(
    "policies",
    metadata,
    Column("vo_id", Id, ForeignKey("vos.id"), primary_key=True, autoincrement=False),
    Column("body", LongText, nullable=False),
    Column("applied_by", String(200), nullable=False),
    _at("applied_at"),
)
"""A VO's shares and limits, as they were applied last."""

usage = Table(
    "usage",
    metadata,
    Column("vo_id", Id, primary_key=True, autoincrement=False),
    Column("group_id", Id, primary_key=True, autoincrement=False),
    Column("owner_id", Id, primary_key=True, autoincrement=False),
    Column("weight", Double(), nullable=False),
    _at("landmark"),
    Column("charged", BigInteger, nullable=False, server_default="0"),
    Column("settled", BigInteger, nullable=False, server_default="0"),
    Column("used", BigInteger, nullable=False, server_default="0"),
)
"""Core-seconds by owner. `weight` fades with the half-life: it is the usage as of `landmark`, and what came later
counts for more (forward decay). `charged` was promised to all jobs ever matched, `settled` is the part of it whose
attempts have ended, `used` what those really took."""

releases = Table(
    "releases",
    metadata,
    _id(),
    Column("job_id", Id, nullable=False),
    Column("autocluster_id", Id),
    Column("site_id", Id),
    Column("cores", Integer),
    Column("charge", BigInteger),
    Column("is_started", Boolean, nullable=False),
    _at("matched_at", nullable=True),
    _at("ended_at"),
)
"""Attempts that have ended and are not booked yet: limits and usage still count them. Appended by whoever ends an
attempt, so that reports don't queue for the rows of `limits` and `usage`; booked in bulk by matching and upkeep."""

datasets = Table(
    "datasets",
    metadata,
    _id(),
    _ref("vo_id", "vos"),
    _ref("step_id", "steps", nullable=True),
    Column("name", String(300), nullable=False),
    Column("state", Word, nullable=False),
    UniqueConstraint("step_id"),
)

files = Table(
    "files",
    metadata,
    _id(),
    _ref("vo_id", "vos"),
    Column("lfn", Exact, nullable=False),
    _ref("dataset_id", "datasets", nullable=True),
    Column("job_id", Id),
    Column("attempt", Integer),
    Column("name", String(255), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("adler32", String(8), nullable=False),
    _at("created_at"),
    *_wake(),
    UniqueConstraint("vo_id", "lfn"),
    Index("ix_files_dataset_id", "dataset_id"),
    Index("ix_files_job_id", "job_id"),
    Index("ix_files_wake_at", "wake_at"),
)

replicas = Table(
    "replicas",
    metadata,
    Column("file_id", Id, ForeignKey("files.id"), primary_key=True),
    Column("storage_id", Id, ForeignKey("storages.id"), primary_key=True),
    Column("path", String(1000), nullable=False),
    Column("state", Word, nullable=False),
    _at("checked_at", nullable=True),
)
"""`path` is relative to the storage's root; state: new (not compared yet), usable, lost."""

reported_outputs = Table(
    "reported_outputs",
    metadata,
    Column("job_id", Id, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("name", String(255), primary_key=True),
    Column("storage_id", Id, nullable=False),
    Column("path", String(1000), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("adler32", String(8), nullable=False),
)
"""What a pilot says it wrote; becomes a file with a replica when the storage agrees."""

deletions = Table(
    "deletions",
    metadata,
    _id(),
    Column("storage_id", Id, nullable=False),
    Column("path", String(1000), nullable=False),
    _at("due_at"),
    Index("ix_deletions_due_at", "due_at"),
)
"""Folders of losing attempts, to be deleted by upkeep."""

instances = Table(
    "instances",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("kind", Word, nullable=False),
    Column("queues", String(500), nullable=False),
    Column("version", String(63), nullable=False),
    Column("host", String(200), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("health_url", String(200)),
    Column("in_flight", Integer, nullable=False),
    Column("oldest_age", Float),
    Column("state", Word, nullable=False),
    Column("wish", Word),
    _at("started_at"),
    _at("last_seen"),
    Index("ix_instances_last_seen", "last_seen"),
)

queue_loads = Table(
    "queue_loads",
    metadata,
    Column("instance_id", String(64), primary_key=True),
    Column("queue", String(63), primary_key=True),
    Column("in_flight", Integer, nullable=False),
    Column("oldest_age", Float),
    Column("slots", Integer),
)
"""An instance's numbers by queue. No foreign key: the release before this table deletes instances without it.
A release that does not tell its `slots` leaves them NULL."""

queue_controls = Table(
    "queue_controls",
    metadata,
    Column("queue", String(63), primary_key=True),
    Column("wish", Word, nullable=False),
    Column("wished_by", String(200), nullable=False),
    _at("wished_at"),
)

trigger_runs = Table(
    "trigger_runs",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("scheduled_for", UtcDateTime, primary_key=True),
    Column("claimed_by", String(64), nullable=False),
    _at("claimed_at"),
    _at("published_at", nullable=True),
    _at("executed_at", nullable=True),
    Column("skipped", Boolean, nullable=False, server_default="0"),
    Index("ix_trigger_runs_published_at", "published_at"),
)

deferred_messages = Table(
    "deferred_messages",
    metadata,
    _id(),
    Column("message_id", String(36), nullable=False),
    Column("queue", String(63), nullable=False),
    Column("payload", LongText, nullable=False),
    Column("reason", String(1000), nullable=False),
    _at("due_at"),
    Index("ix_deferred_messages_due_at", "due_at"),
    Index("ix_deferred_messages_queue_due_at", "queue", "due_at"),
)

dead_letters = Table(
    "dead_letters",
    metadata,
    _id(),
    Column("message_id", String(64), nullable=False),
    Column("queue", String(63), nullable=False),
    Column("type", String(63), nullable=False),
    Column("payload", LargeBinary().with_variant(mysql.MEDIUMBLOB, "mysql", "mariadb"), nullable=False),
    Column("reason", String(1000), nullable=False),
    Column("traceback", LongText),
    Column("attempts", Integer, nullable=False),
    _at("created_at"),
    Index("ix_dead_letters_queue_created_at", "queue", "created_at"),
)

redeliveries = Table(
    "redeliveries",
    metadata,
    Column("message_id", String(64), primary_key=True),
    Column("deliveries", Integer, nullable=False),
    _at("at"),
)
"""How often a message came again after it was received; counted before it runs."""

controls = Table(
    "controls",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("value", BigInteger, nullable=False, server_default="0"),
    Column("note", String(500)),
    _at("since"),
    _at("at"),
)
"""Single facts of the whole system: the provisioning cycle, since when the API serves heartbeats, pauses."""

drains = Table(
    "drains",
    metadata,
    _id(),
    Column("kind", Word, nullable=False),
    Column("target", String(200), nullable=False),
    Column("vo_id", Id),
    Column("wished_by", String(200), nullable=False),
    Column("why", String(500), nullable=False),
    _at("started_at"),
    _at("deadline_at", nullable=True),
    Column("kills", Boolean, nullable=False, server_default="0"),
    _at("silent_since", nullable=True),
    _at("drained_at", nullable=True),
    _at("lifted_at", nullable=True),
    Column("lifted_by", String(200)),
    Column("told", Word),
)
"""What operators drain: `instance`, `queue`, `site`, `vo` or `all`. `drained_at` is set once, when nothing was left.
`silent_since` is when all of the processes that were left were first seen to be silent. `vo_id` is the VO that it is
for, null for everybody. `told` is the state that upkeep has last minded and logged."""

worker_wishes = Table(
    "worker_wishes",
    metadata,
    Column("queue", String(63), primary_key=True),
    Column("workers", Integer, nullable=False),
    Column("wished_by", String(200), nullable=False),
    _at("wished_at"),
)
"""How many consumers of a queue `penstock up` shall run, where somebody said so."""

queue_work = Table(
    "queue_work",
    metadata,
    Column("queue", String(63), primary_key=True),
    Column("settled", BigInteger, nullable=False, server_default="0"),
    Column("busy_seconds", Double, nullable=False, server_default="0"),
)
"""Messages settled and seconds of busy workers, ever: every consumer adds its own."""

queue_sizes = Table(
    "queue_sizes",
    metadata,
    Column("queue", String(63), primary_key=True),
    _at("measured_at"),
    Column("settled", BigInteger, nullable=False),
    Column("busy_seconds", Double, nullable=False),
    Column("backlog", Integer, nullable=False),
    Column("deferred", Integer, nullable=False),
    Column("oldest_age", Double),
    Column("arrivals", Double, nullable=False),
    Column("seconds", Double),
    Column("workers", Integer, nullable=False),
    Column("wanted", Integer, nullable=False),
)
"""The last measurement of each queue: backlog, arrivals per second, worker seconds per message, workers wanted."""

metric_values = Table(
    "metric_values",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("labels", String(255), primary_key=True),
    Column("value", Double, nullable=False),
)
"""What is counted over the whole system, exported by every API process: `labels` is a JSON list of their values."""

for _table in metadata.tables.values():
    # MySQL's usual collations take A for a, and some é for e: two jobs' outputs, or two people, would be one.
    _table.dialect_options["mysql"]["collate"] = "utf8mb4_bin"
