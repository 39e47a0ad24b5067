"""Publishing after a commit: one connection per API process, and a broker's outage is nobody's error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.api.broker_thread import BrokerThread
from pipeline.errors import BrokerUnavailable
from pipeline.transport.port import Depth
from schemas.messages import Message
from schemas.outcomes import Backoff

BACKOFF = Backoff(base=0.5, factor=2, cap=5.0)
"""Between two tries while the broker is away."""
PATIENCE = 1.0
"""Seconds that a request waits for the broker's confirmation; what is slower is confirmed after the answer."""
DEPTH_PATIENCE = 3.0
"""Seconds that a request waits for the queues' depths."""


class Publisher:
    """A transport for many threads. What it can't publish is dropped: the rows are due, so reconcile finds them.

    Only what failed first is tried again, since it tells when the broker takes messages again.

    No request waits for a broker that is away: only the first one that meets a frozen broker does, for a second.
    """

    def __init__(self, url: str, instance: str, backoff: Backoff = BACKOFF) -> None:
        self._broker = BrokerThread(url, instance, backoff)

    def publish(self, messages: Sequence[Message]) -> None:
        """Publish what a committed transaction returned; never raises for a broker that is down."""
        if not messages:
            return
        hangs = self._broker.hangs(PATIENCE)
        publication = self._broker.submit(lambda transport: transport.publish(messages))
        try:
            publication.result(0 if hangs else PATIENCE)
        except (BrokerUnavailable, TimeoutError):
            return

    def depth(self, queues: Sequence[str]) -> Mapping[str, Depth]:
        """How full each queue is. Raises BrokerUnavailable, within 3 s."""
        if self._broker.hangs(DEPTH_PATIENCE):
            raise BrokerUnavailable(f"the broker has not answered for over {DEPTH_PATIENCE:g} s")
        try:
            return self._broker.submit(lambda transport: transport.depth(queues)).result(DEPTH_PATIENCE)
        except TimeoutError as error:
            raise BrokerUnavailable(f"the broker did not answer within {DEPTH_PATIENCE:g} s") from error

    @property
    def away(self) -> bool:
        """Whether the broker can't be reached, as far as the last call knows."""
        return self._broker.away or self._broker.hangs(PATIENCE)

    def close(self) -> None:
        """Give the connection up. May be called twice."""
        self._broker.close()
