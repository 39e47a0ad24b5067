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
| penstock_workers_replaced_total | queue, cause | pool workers replaced: died, memory |
| penstock_broker_lost_total | queue | times that the broker was lost, by the queue's consumer; `api`, `triggers` |
| penstock_database_retries_total | | transactions run again |
| penstock_triggers_published_total | trigger | ticks published |
| penstock_triggers_skipped_total | trigger | ticks skipped, since they were past their grace |
| penstock_http_requests_total | method, route, status | requests answered |
| penstock_http_request_seconds | method, route | how long answering took |
| penstock_queue_ready | queue | messages that wait in the broker; this and the next two by the API alone |
| penstock_queue_in_flight | queue | messages with consumers |
| penstock_queue_oldest_age_seconds | queue | how long the oldest waiting message has waited; none where none waits |
| penstock_instance_info | instance, kind, version | 1 |
"""

from __future__ import annotations

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
QUEUE_READY = Gauge("penstock_queue_ready", "Messages that wait in the broker", ["queue"])
QUEUE_IN_FLIGHT = Gauge("penstock_queue_in_flight", "Messages with consumers", ["queue"])
QUEUE_OLDEST_AGE = Gauge("penstock_queue_oldest_age_seconds", "Wait of the oldest waiting message", ["queue"])
INSTANCE = Gauge("penstock_instance_info", "This process", ["instance", "kind", "version"])
