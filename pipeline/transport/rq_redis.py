"""Redis as a transport: RQ's queues, received in batches by consumers of our own.

RQ's tools see and serve the queues (`rq info`, rq-dashboard, `rq worker --serializer json`). A
consumer of ours takes a batch into a list of its own, under a heartbeat, and others take it over
when that lapses. What happens on the server is in `rq_scripts`.
"""

from __future__ import annotations

import time
import weakref
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from typing import cast

from redis.exceptions import RedisError

from pipeline.errors import BrokerUnavailable
from pipeline.transport import rq_scripts
from pipeline.transport.port import Capabilities, Delivery, Depth
from pipeline.transport.redis_connection import Address, answer_timeout, broker_errors, connect, parse_address
from pipeline.transport.rq_heartbeat import Heartbeat
from pipeline.transport.rq_job import FAILURE_TTL, TIMEOUT, job_data, job_description, job_id, payload_of
from pipeline.transport.rq_scripts import alive_key, consumers_key, inflight_key, queue_key
from schemas.messages import Message

_ROUND = 1_000
"""Messages published, or acknowledged, by one script call."""
_ROUND_BYTES = 16 << 20
"""And about so many bytes: a script call stops the server while it runs."""
_PURGE_ROUND = 10_000
_SHORTEST_BLOCK = 0.01
"""Seconds; Redis takes less for zero in places, which would block for ever."""


def open_transport(url: str, consumer: str) -> RqRedisTransport:
    """The Redis at `url` (redis://, rediss://, unix://), as `consumer`. Raises BadSettings on a wrong URL.

    Of ours among the URL's parameters: `takeover`, seconds of silence after which a consumer counts as dead.
    """
    return RqRedisTransport(parse_address(url), consumer)


class RqRedisTransport:
    """One consumer's connection. Two open ones of the same consumer must not receive from the same queue."""

    capabilities = Capabilities(name="redis", durable=False, reports_age=True)
    """Not durable, since only a server with `appendonly yes` is, and that cannot be relied on."""

    def __init__(self, address: Address, consumer: str) -> None:
        self._address = address
        self._consumer = consumer
        self._client = connect(address)
        self._heartbeat = Heartbeat(self._client, alive_key(consumer), address.takeover)
        self._slice = min(self._heartbeat.interval, answer_timeout(self._client) / 2)
        self._looked: dict[str, float] = {}
        self._held: dict[str, set[bytes]] = {}
        """By queue, what was received and not acknowledged."""
        self._settled: set[str] = set()
        """Queues whose list on the server is known to hold nothing but what is in `_held`."""
        self._closed = False
        self._publish = self._client.register_script(rq_scripts.PUBLISH)
        self._take = self._client.register_script(rq_scripts.TAKE)
        self._acknowledge = self._client.register_script(rq_scripts.ACKNOWLEDGE)
        self._give_back = self._client.register_script(rq_scripts.GIVE_BACK)
        self._take_over = self._client.register_script(rq_scripts.TAKE_OVER)
        self._depth = self._client.register_script(rq_scripts.DEPTH)
        self._purge = self._client.register_script(rq_scripts.PURGE)
        # A consumer that is dropped without `close` is a dead one: its heartbeat must not go on.
        weakref.finalize(self, self._heartbeat.stop)

    def publish(self, messages: Sequence[Message]) -> None:
        """See the port. Up to 1,000 messages of a queue appear at once or not at all."""
        by_queue: dict[str, list[Message]] = defaultdict(list)
        for message in messages:
            by_queue[message.queue].append(message)
        for queue, own in by_queue.items():
            head: list[str | int] = [queue, _rq_time(datetime.now(UTC)), TIMEOUT, FAILURE_TTL]
            for jobs in _rounds(own):
                with self._calling(f"publish to {queue}"):
                    self._publish(keys=[rq_scripts.QUEUES_KEY, queue_key(queue)], args=[*head, *jobs])

    def receive(self, queue: str, most: int, wait: float) -> list[Delivery]:
        """See the port. Takes over from dead consumers on the way, every few seconds."""
        deadline = time.monotonic() + wait
        with self._calling(f"receive from {queue}"):
            self._heartbeat.start()
            self._settle(queue)
            # Until the reply is here nobody knows what has been moved into our list.
            self._settled.discard(queue)
            deliveries = self._receive_until(deadline, queue, most)
            self._settled.add(queue)
        return deliveries

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """See the port."""
        by_queue: dict[str, list[bytes]] = defaultdict(list)
        for delivery in deliveries:
            by_queue[delivery.queue].append(delivery.receipt)
        if self._closed:
            return
        for queue, ids in by_queue.items():
            for start in range(0, len(ids), _ROUND):
                some = ids[start : start + _ROUND]
                with self._calling(f"acknowledge to {queue}"):
                    self._acknowledge(keys=[inflight_key(queue, self._consumer)], args=some)
                self._held.get(queue, set()).difference_update(some)

    def depth(self, queues: Sequence[str]) -> Mapping[str, Depth]:
        """See the port. What a stock RQ worker has in work is in neither count."""
        found = {}
        for queue in queues:
            with self._calling(f"count {queue}"):
                ready, held, age = self._depth(
                    keys=[queue_key(queue), consumers_key(queue)], args=[inflight_key(queue, "")]
                )
            found[queue] = Depth(ready, held, max(0.0, float(age)) if age else None)
        return found

    def purge(self, queue: str) -> int:
        """See the port."""
        purged, gone = 0, _PURGE_ROUND
        while gone == _PURGE_ROUND:
            with self._calling(f"purge {queue}"):
                gone, messages = self._purge(keys=[queue_key(queue)], args=[_PURGE_ROUND])
            purged += messages
        return purged

    def close(self) -> None:
        """See the port. Where the broker is away, others take the messages over once the heartbeat has lapsed."""
        if self._closed:
            return
        self._closed = True
        self._heartbeat.stop()
        self._heartbeat.join()
        try:
            for queue in self._held:
                self._give_back(keys=[inflight_key(queue, self._consumer), queue_key(queue)])
        except RedisError:
            pass
        finally:
            self._client.close()

    @contextmanager
    def _calling(self, doing: str) -> Iterator[None]:
        if self._closed:
            raise BrokerUnavailable(
                f"cannot {doing}: this connection to {self._address.shown} was closed; open another"
            )
        try:
            with broker_errors(self._address, doing):
                yield
        except BrokerUnavailable:
            self._heartbeat.note_outage()
            raise

    def _settle(self, queue: str) -> None:
        """Give back what lies in our list unknown to us: from an earlier process of this name, or a lost reply."""
        if queue in self._settled:
            return
        held = self._held.setdefault(queue, set())
        self._give_back(keys=[inflight_key(queue, self._consumer), queue_key(queue)], args=sorted(held))

    def _receive_until(self, deadline: float, queue: str, most: int) -> list[Delivery]:
        moved: bytes | str = ""
        while True:
            self._look_after_others(queue)
            taken = self._take_now(queue, most, moved)
            left = deadline - time.monotonic()
            if taken or left <= 0:
                return taken
            moved = self._wait_for_one(queue, left) or ""

    def _wait_for_one(self, queue: str, left: float) -> bytes | str | None:
        """The id of a message that has come and is in our list now; None after one slice of the wait."""
        block = max(_SHORTEST_BLOCK, min(left, self._slice))
        # The driver's signature says int; Redis takes fractions of a second, and the driver hands them on.
        return self._client.blmove(queue_key(queue), inflight_key(queue, self._consumer), cast("int", block))

    def _take_now(self, queue: str, most: int, moved: bytes | str) -> list[Delivery]:
        keys = [queue_key(queue), inflight_key(queue, self._consumer), alive_key(self._consumer), consumers_key(queue)]
        numbers, content = self._take(keys=keys, args=[self._consumer, self._heartbeat.life_ms, most, moved])
        deliveries = list(_deliveries(queue, numbers, content))
        self._held[queue].update(delivery.receipt for delivery in deliveries)
        return deliveries

    def _look_after_others(self, queue: str) -> None:
        now = time.monotonic()
        if now < max(self._heartbeat.judging_from, self._looked.get(queue, 0.0) + self._heartbeat.interval):
            return
        self._looked[queue] = now
        self._take_over(
            keys=[queue_key(queue), consumers_key(queue), alive_key(self._consumer)],
            args=[self._heartbeat.life_ms, inflight_key(queue, ""), alive_key("")],
        )


def _deliveries(queue: str, numbers: bytes, content: bytes) -> Iterator[Delivery]:
    """What TAKE has answered."""
    following = map(int, numbers.split())
    start = 0
    for id_length, data_length, again in zip(following, following, following, strict=True):
        middle, end = start + id_length, start + id_length + data_length
        yield Delivery(queue, payload_of(content[middle:end]), again == 1, content[start:middle])
        start = end


def _rq_time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _rounds(messages: Sequence[Message]) -> Iterator[list[str | bytes]]:
    """The script's arguments, for as many messages at a time as one call shall carry."""
    rest = iter(messages)
    while chunk := list(islice(rest, _ROUND)):
        jobs: list[str | bytes] = []
        size = 0
        for message in chunk:
            data = job_data(message.encode())
            jobs += [job_id(message), data, job_description(message)]
            size += len(data)
            if size > _ROUND_BYTES:
                yield jobs
                jobs, size = [], 0
        if jobs:
            yield jobs
