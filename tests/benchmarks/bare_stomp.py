"""stomp.py by hand: one wait for a whole round's receipts (ActiveMQ: for a transaction's), each message acknowledged.

ActiveMQ fills 200 messages of a window and no more, so there are several subscriptions, as our transport has.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from queue import SimpleQueue
from typing import Any
from urllib.parse import urlsplit

from stomp import Connection12
from stomp.listener import ConnectionListener

from schemas.messages import Message

_PAGE = 200
_PATIENCE = 30.0
_LASTING = {"durable": "true", "auto-delete": "false"}


class BareStomp(ConnectionListener):  # type: ignore[misc]  # stomp.py ships no types
    """One connection and its listener."""

    def __init__(self, url: str, queue: str, *, in_transactions: bool) -> None:
        place = urlsplit(url)
        self._destination = f"/queue/{queue}"
        self._in_transactions = in_transactions
        self._receipts: SimpleQueue[str] = SimpleQueue()
        self._received: SimpleQueue[tuple[str, str]] = SimpleQueue()
        self._numbers = map(str, itertools.count(1))
        self._connection = Connection12([(place.hostname, place.port)], vhost="/")
        self._connection.set_listener("bare", self)
        self._connection.connect("guest", "guest", wait=True)

    def publish(self, messages: Sequence[Message]) -> None:
        """Returns when all are confirmed."""
        headers = {"persistent": "true", "content-type": "application/json", **_LASTING}
        if self._in_transactions:
            transaction = self._connection.begin()
            for message in messages:
                self._connection.send(self._destination, message.encode(), transaction=transaction, headers=headers)
            self._connection.commit(transaction, headers={"receipt": next(self._numbers)})
            self._receipts.get(timeout=_PATIENCE)
            return
        for message in messages:
            self._connection.send(
                self._destination, message.encode(), headers={**headers, "receipt": next(self._numbers)}
            )
        for _ in messages:
            self._receipts.get(timeout=_PATIENCE)

    def drain(self, number: int, most: int) -> None:
        """Take so many in batches, with a window of two, and acknowledge each batch, one by one."""
        window = {"prefetch-count": str(_PAGE), "activemq.prefetchSize": str(_PAGE), **_LASTING}
        for _ in range(-(-2 * most // _PAGE)):
            self._connection.subscribe(self._destination, next(self._numbers), ack="client-individual", headers=window)
        while number > 0:
            batch = [self._received.get(timeout=_PATIENCE) for _ in range(min(number, most))]
            for name, _body in batch:
                self._connection.ack(name)
            number -= len(batch)

    def close(self) -> None:
        """Disconnect, when all acknowledgements have arrived."""
        receipt = next(self._numbers)
        self._connection.disconnect(receipt)

    def on_receipt(self, frame: Any) -> None:
        """Something is confirmed."""
        self._receipts.put(frame.headers["receipt-id"])

    def on_message(self, frame: Any) -> None:
        """Something has come."""
        self._received.put((frame.headers["ack"], frame.body))
