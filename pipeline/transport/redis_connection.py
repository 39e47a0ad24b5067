"""The way to a Redis: what its URL says, and how its driver's errors become ours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlencode

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from pipeline.errors import BadSettings, BrokerUnavailable
from pipeline.transport.address import positive_seconds

TAKEOVER = 15.0
"""Seconds of silence after which a consumer counts as dead, unless the URL says `?takeover=`."""

_CONNECT_TIMEOUT = 5.0
_ANSWER_TIMEOUT = 10.0
_SECRETS = frozenset({"password", "ssl_password"})
_PASSWORD = re.compile(r"(://[^/:@]*):[^/]*@")


@dataclass(frozen=True, slots=True)
class Address:
    """A broker's URL, taken apart."""

    driver_url: str = field(repr=False)
    """What the driver gets: the URL without the parameters that are ours."""
    shown: str
    """The URL without its password, for messages and logs."""
    takeover: float
    """Seconds of silence after which a consumer counts as dead."""


def parse_address(url: str) -> Address:
    """The address in `url`. Raises BadSettings when `takeover` is no positive number."""
    base, _mark, query = url.partition("?")
    parameters = parse_qsl(query, keep_blank_values=True)
    given = [value for name, value in parameters if name == "takeover"]
    theirs = [(name, value) for name, value in parameters if name != "takeover"]
    visible = [(name, "***" if name in _SECRETS else value) for name, value in parameters]
    return Address(
        driver_url=_joined(base, urlencode(theirs)),
        shown=_joined(_PASSWORD.sub(r"\1:***@", base), urlencode(visible, safe="*/")),
        takeover=positive_seconds("takeover", given[-1]) if given else TAKEOVER,
    )


def _joined(base: str, query: str) -> str:
    return f"{base}?{query}" if query else base


def connect(address: Address) -> Redis:
    """A client for `address`, not yet connected. Raises BadSettings on a URL that the driver does not take.

    The driver never repeats a command by itself: a take or a publication that is repeated blindly after a
    lost reply would happen twice.
    """
    try:
        client = Redis.from_url(
            address.driver_url,
            socket_connect_timeout=_CONNECT_TIMEOUT,
            socket_timeout=_ANSWER_TIMEOUT,
            retry=Retry(NoBackoff(), 0),
        )
        pool = client.connection_pool
        # The driver looks at unknown parameters only when it connects; a typing error shall show at the start.
        pool.connection_class(**pool.connection_kwargs)
    except (ValueError, TypeError) as error:
        raise BadSettings(f"PENSTOCK_BROKER_URL: {address.shown} is no URL of a Redis: {error}") from error
    return client


def answer_timeout(client: Redis) -> float:
    """Seconds that the driver waits for any answer; a blocking command must be shorter."""
    return float(client.connection_pool.connection_kwargs.get("socket_timeout") or _ANSWER_TIMEOUT)


@contextmanager
def broker_errors(address: Address, doing: str) -> Iterator[None]:
    """Turn the driver's errors into BrokerUnavailable that says what was being done, and where."""
    try:
        yield
    except RedisError as error:
        raise BrokerUnavailable(
            f"cannot {doing} at {address.shown}: {error}; check that the broker runs and PENSTOCK_BROKER_URL is right"
        ) from error
