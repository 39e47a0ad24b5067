"""A consumer in a process of its own, made to be killed: it receives, says how many, and never acknowledges.

python -m tests.conformance.transport_victim URL CONSUMER QUEUE MOST
"""

from __future__ import annotations

import signal
import sys

from pipeline.transport.port import open_transport


def main(url: str, consumer: str, queue: str, most: str) -> None:
    transport = open_transport(url, consumer)
    deliveries = transport.receive(queue, int(most), 30.0)
    print(len(deliveries), flush=True)
    while True:
        signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
