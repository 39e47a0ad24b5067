"""Dramatiq's, all as it comes."""

from __future__ import annotations

import os
from collections.abc import Callable

import dramatiq
from dramatiq.broker import Broker
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker

_URL = os.environ["NO_OP_BROKER"]
_KINDS: dict[str, Callable[..., Broker]] = {"amqp": RabbitmqBroker, "redis": RedisBroker}

broker = _KINDS[_URL.partition(":")[0]](url=_URL)
dramatiq.set_broker(broker)


@dramatiq.actor(broker=broker)
def pass_over(ids: list[int]) -> None:
    """Nothing is to be done about these."""
