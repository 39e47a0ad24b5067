"""A consumer in a process of its own, made to be killed: it receives batches and acknowledges all but the last one.

python -m tests.conformance.transport_victim URL CONSUMER QUEUE SIZE...

It prints the numbers of each batch that it has received, and acknowledged but for the last, as a line of JSON.
"""

from __future__ import annotations

import json
import signal
import sys

from pipeline.transport.port import Delivery, Transport, open_transport


def main(url: str, consumer: str, queue: str, *sizes: str) -> None:
    transport = open_transport(url, consumer)
    for left, size in zip(reversed(range(len(sizes))), map(int, sizes), strict=True):
        batch = _receive(transport, queue, size)
        if left:
            transport.acknowledge(batch)
        print(json.dumps([json.loads(delivery.payload)["body"]["number"] for delivery in batch]), flush=True)
    while True:
        signal.pause()


def _receive(transport: Transport, queue: str, size: int) -> list[Delivery]:
    batch: list[Delivery] = []
    while len(batch) < size:
        batch += transport.receive(queue, size - len(batch), 30.0)
    return batch


if __name__ == "__main__":
    main(*sys.argv[1:])
