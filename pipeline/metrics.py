"""Every metric of every process: one table, read by `/metrics` and by the reference in the docs.

| metric | labels | what |
|---|---|---|
| penstock_messages_total | queue, outcome | messages dealt with: done, retried, dead |
| penstock_batch_seconds | queue | how long batches ran in the pool |
| penstock_batch_messages | queue | messages per batch |
| penstock_batch_failures_total | queue, kind | runs that crashed, timed out, ran out of memory or raised |
| penstock_in_flight | queue | messages received and not acknowledged yet |
| penstock_oldest_age_seconds | queue | age of the oldest message of the batch received last |
| penstock_follow_ups_total | queue | messages published on behalf of a queue's executor |
| penstock_deferred_total | queue | messages stored to be tried later |
| penstock_dead_letters_total | queue | dead letters written |
| penstock_redeliveries_total | queue | messages that came again after a consumer was lost |
| penstock_workers_replaced_total | queue, cause | pool workers replaced: died, memory, silent |
| penstock_broker_lost_total | queue | times that the broker was lost, by the queue's consumer; `api`, `triggers` |
| penstock_database_retries_total | | transactions run again |
| penstock_triggers_published_total | trigger | ticks published |
| penstock_triggers_skipped_total | trigger | ticks skipped, since they were past their grace |
| penstock_http_requests_total | method, route, status | requests answered |
| penstock_http_request_seconds | method, route | how long answering took |
| penstock_match_latency_seconds | message | from an offer to the decision about it, from news of jobs to a look there |
| penstock_reconcile_finds_total | message | ids that reconcile found overdue and published again |
| penstock_instance_info | instance, kind, version | 1 |
| penstock_live | | 1 while the process makes progress, 0 where `/livez` says that it is stuck |

By the API alone, as of now:

| metric | labels | what |
|---|---|---|
| penstock_queue_ready | queue | messages that wait in the broker |
| penstock_queue_in_flight | queue | messages with consumers |
| penstock_queue_oldest_age_seconds | queue | how long the oldest waiting message has waited; none where none waits |
| penstock_queue_consumers | queue | live consumers |
| penstock_queue_workers_wanted | queue | consumer processes wanted, by what arrives, what it costs and what waits |
| penstock_queue_arrivals_per_second | queue | messages per second, averaged over two minutes or more |
| penstock_queue_seconds_per_message | queue | seconds of a worker slot that a message takes, likewise |
| penstock_broker_up | | 1 where the API reaches the broker, else 0 |
| penstock_database_up | | 1 where the API reaches the database, else 0 |
| penstock_instances | kind, version | live processes |
| penstock_trigger_lag_seconds | trigger | for how long its next tick has been due; 0 while it is in time |
| penstock_count_age_seconds | | how old what follows is |

By the API alone, counted over the whole system and kept in the database (`STORED`): every API process tells the same,
also after all have been started anew. A sum over processes counts it several times; take `max without (instance)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 180, 600)
_COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)

MESSAGES = Counter("penstock_messages", "Messages dealt with", ["queue", "outcome"])
BATCH_SECONDS = Histogram("penstock_batch_seconds", "Time of batches in the pool", ["queue"], buckets=_SECONDS)
BATCH_MESSAGES = Histogram("penstock_batch_messages", "Messages per batch", ["queue"], buckets=_COUNTS)
BATCH_FAILURES = Counter("penstock_batch_failures", "Runs in the pool that failed", ["queue", "kind"])
IN_FLIGHT = Gauge("penstock_in_flight", "Messages received and not acknowledged yet", ["queue"])
OLDEST_AGE = Gauge("penstock_oldest_age_seconds", "Age of the oldest message received last", ["queue"])
FOLLOW_UPS = Counter("penstock_follow_ups", "Messages published for executors", ["queue"])
DEFERRED = Counter("penstock_deferred", "Messages stored to be tried later", ["queue"])
DEAD_LETTERS = Counter("penstock_dead_letters", "Dead letters written", ["queue"])
REDELIVERIES = Counter("penstock_redeliveries", "Messages that came again", ["queue"])
WORKERS_REPLACED = Counter("penstock_workers_replaced", "Pool workers replaced", ["queue", "cause"])
BROKER_LOST = Counter("penstock_broker_lost", "Times that the broker was lost", ["queue"])
DATABASE_RETRIES = Counter("penstock_database_retries", "Transactions run again")
TRIGGERS_PUBLISHED = Counter("penstock_triggers_published", "Ticks published", ["trigger"])
TRIGGERS_SKIPPED = Counter("penstock_triggers_skipped", "Ticks skipped, past their grace", ["trigger"])
HTTP_REQUESTS = Counter("penstock_http_requests", "Requests answered", ["method", "route", "status"])
HTTP_SECONDS = Histogram("penstock_http_request_seconds", "Time of requests", ["method", "route"], buckets=_SECONDS)
INSTANCE = Gauge("penstock_instance_info", "This process", ["instance", "kind", "version"])
LIVE = Gauge("penstock_live", "Whether this process makes progress")
MATCH_LATENCY = Histogram(
    "penstock_match_latency_seconds", "From an offer or news of jobs to the decision", ["message"], buckets=_SECONDS
)
RECONCILE_FINDS = Counter("penstock_reconcile_finds", "Overdue ids published again", ["message"])
WORKERS_WANTED = Gauge("penstock_queue_workers_wanted", "Consumer processes wanted", ["queue"])
ARRIVALS = Gauge("penstock_queue_arrivals_per_second", "Messages per second", ["queue"])
SECONDS_PER_MESSAGE = Gauge("penstock_queue_seconds_per_message", "Seconds of a worker slot per message", ["queue"])

CARRIED: Mapping[str, Counter | Histogram] = {
    "match_latency": MATCH_LATENCY,
    "reconcile_finds": RECONCILE_FINDS,
}
"""What executors count in a pool's worker, whose metrics nobody scrapes: the consumer adds it to its own."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A metric that the database keeps. Labels named `site`, `site_queue` and `vo` are ids there, and names outside."""

    name: str
    kind: Literal["counter", "gauge"]
    labels: tuple[str, ...]
    help: str
    is_sum: bool = False
    """A gauge that is the sum of what was counted, instead of measured anew at each tick."""


STORED = (
    Stored("penstock_job_transitions_total", "counter", ("from_state", "to_state"), "Transitions of jobs"),
    Stored("penstock_jobs", "gauge", ("state", "site"), "Jobs that have not ended; the site of those on a pilot", True),
    Stored("penstock_job_ends_total", "counter", ("state", "site"), "Jobs that were done, failed or killed"),
    Stored("penstock_job_restarts_total", "counter", ("cause", "site"), "Attempts after which a job began anew"),
    Stored("penstock_used_core_seconds_total", "counter", ("site",), "Core-seconds that attempts took"),
    Stored(
        "penstock_wasted_core_seconds_total", "counter", ("outcome", "site"), "Those of attempts that were not done"
    ),
    Stored("penstock_pilots", "gauge", ("state", "site", "site_queue"), "Pilots that have not ended"),
    Stored("penstock_pilots_ended_total", "counter", ("state", "site", "site_queue"), "Pilots that have ended"),
    Stored(
        "penstock_meta_site_pilots",
        "gauge",
        ("state", "meta_site", "site", "site_queue"),
        "Those in the queues of meta-sites, queue by queue",
    ),
    Stored("penstock_silent_pilots", "gauge", (), "Active pilots that are silent for longer than they may be"),
    Stored("penstock_rescheduling_paused", "gauge", (), "1 while so many are silent that nothing is done about it"),
    Stored("penstock_site_queue_failures", "gauge", ("site", "site_queue"), "Rounds in a row that failed there"),
    Stored("penstock_deferred_messages", "gauge", ("queue",), "Messages that are stored to be tried later"),
    Stored("penstock_dead_letters_kept", "gauge", ("queue",), "Dead letters that nobody has requeued or dropped"),
    Stored("penstock_campaigns", "gauge", ("state", "vo"), "Campaigns that are kept"),
    Stored("penstock_steps", "gauge", ("state",), "Steps that have not ended"),
)
