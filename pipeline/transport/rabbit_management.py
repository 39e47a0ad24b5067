"""RabbitMQ's management API, for the one thing that neither AMQP nor STOMP tells: how much is in flight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import quote, urlsplit

import httpx

from pipeline.errors import BadSettings

_TIMEOUT = 2.0
"""Seconds; nobody shall wait for a number that is allowed to be missing."""


class RabbitManagement:
    """The API at `url` (http://USER:PASSWORD@HOST:15672), for the queues of one vhost.

    Its numbers are as old as the server's statistics (`collect_statistics_interval`, 5 s unless set
    otherwise). Raises BadSettings for a URL that is none.
    """

    def __init__(self, url: str, vhost: str) -> None:
        if not _is_sound(url):
            raise BadSettings(
                "PENSTOCK_BROKER_URL: the option management is no URL of RabbitMQ's management API; write"
                " management=http://USER:PASSWORD@HOST:15672 with / ? # and @ inside of the user or the password as"
                " %252F, %253F, %2523 and %2540"
            )
        self._queues = f"{url.rstrip('/')}/api/queues/{quote(vhost, safe='')}"
        self._client: httpx.Client | None = None

    def counts(self, queues: Sequence[str]) -> Mapping[str, tuple[int, int]]:
        """Ready and in-flight messages by queue, without those that the server does not tell: all when it is away."""
        found: dict[str, tuple[int, int]] = {}
        try:
            for queue in queues:
                counts = self._ask(queue)
                if counts is not None:
                    found[queue] = counts
        except (httpx.HTTPError, httpx.InvalidURL, ValueError):
            # Unknown is an answer. The next call is a new try, on a new connection.
            self.close()
        return found

    def close(self) -> None:
        """Give the connection up. May be called twice, and `counts` after it."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _ask(self, queue: str) -> tuple[int, int] | None:
        if self._client is None:
            self._client = httpx.Client(timeout=_TIMEOUT)
        answer = self._client.get(f"{self._queues}/{quote(queue, safe='')}")
        if answer.status_code == httpx.codes.NOT_FOUND:
            return 0, 0
        answer.raise_for_status()
        told = answer.json()
        ready, in_flight = told.get("messages_ready"), told.get("messages_unacknowledged")
        # A queue that was made a moment ago has no statistics yet.
        return (ready, in_flight) if isinstance(ready, int) and isinstance(in_flight, int) else None


def _is_sound(url: str) -> bool:
    """Whether it has a scheme and a host, and after that a port, and not what may be a password."""
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False
