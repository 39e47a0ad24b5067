"""Dramatiq's, all as it comes."""

from __future__ import annotations

import os

import dramatiq
from dramatiq.broker import Broker
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker

_URL = os.environ["NO_OP_BROKER"]


def _broker() -> Broker:
    return RabbitmqBroker(url=_URL) if _URL.startswith("amqp") else RedisBroker(url=_URL)


broker = _broker()
dramatiq.set_broker(broker)


@dramatiq.actor(broker=broker)
def pass_over(ids: list[int]) -> None:
    """Nothing is to be done about these."""
