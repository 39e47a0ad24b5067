"""redis-py by hand: what our transport leaves on the server, in pipelines; and the plainest queue that there is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime

from redis import Redis

from pipeline.transport.rq_job import FAILURE_TTL, TIMEOUT, job_data, job_description, job_id, payload_of
from schemas.messages import Message

_Value = bytes | bytearray | memoryview | str | int | float
_TAKEN = "bare:taken"


class BareRedis:
    """Hash and list of RQ's kind: pushed, moved to a list of the consumer's own, removed when acknowledged."""

    def __init__(self, url: str, queue: str) -> None:
        self._client = Redis.from_url(url)
        self._name = queue
        self._queue = f"rq:queue:{queue}"

    def publish(self, messages: Sequence[Message]) -> None:
        """In one pipeline."""
        now = datetime.now(UTC).isoformat()
        pipeline = self._client.pipeline(transaction=False)
        pipeline.sadd("rq:queues", self._queue)
        for message in messages:
            identity = job_id(message)
            fields: dict[_Value, _Value] = {
                "created_at": now,
                "enqueued_at": now,
                "data": job_data(message.encode()),
                "description": job_description(message),
                "origin": self._name,
                "status": "queued",
                "timeout": TIMEOUT,
                "result_ttl": 0,
                "failure_ttl": FAILURE_TTL,
                "penstock_published": time.time(),
            }
            pipeline.hset(f"rq:job:{identity}", mapping=fields)
            pipeline.rpush(self._queue, identity)
        pipeline.execute()

    def drain(self, number: int, most: int) -> None:
        """Take so many in batches, and acknowledge each batch: three pipelines."""
        while number > 0:
            number -= len(self._take(most))

    def close(self) -> None:
        """Disconnect."""
        self._client.close()

    def _take(self, most: int) -> list[bytes]:
        moving = self._client.pipeline(transaction=False)
        for _ in range(most):
            moving.lmove(self._queue, _TAKEN, "LEFT", "RIGHT")
        ids = [identity for identity in moving.execute() if identity is not None]
        reading = self._client.pipeline(transaction=False)
        for identity in ids:
            reading.hget(b"rq:job:" + identity, "data")
        payloads = [payload_of(data) for data in reading.execute()]
        removing = self._client.pipeline(transaction=False)
        for identity in ids:
            removing.lrem(_TAKEN, 1, identity)
            removing.delete(b"rq:job:" + identity)
        removing.execute()
        return payloads


class PlainList:
    """A list of payloads: pushed and popped by the thousand. What is popped and not processed is lost."""

    def __init__(self, url: str, queue: str) -> None:
        self._client = Redis.from_url(url)
        self._queue = f"plain:{queue}"

    def publish(self, messages: Sequence[Message]) -> None:
        """In one command."""
        self._client.rpush(self._queue, *(message.encode() for message in messages))

    def drain(self, number: int, most: int) -> None:
        """Take so many in batches."""
        while number > 0:
            number -= len(self._client.lpop(self._queue, most) or ())

    def close(self) -> None:
        """Disconnect."""
        self._client.close()
