"""As little HTTP/1.1 as simulated pilots need: connections that are kept, JSON in and out, no checks of its own."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import from_json, to_json

_FAILED = 500
"""Statuses from this on say that the server, or one before it, is not well."""

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Wire:
    """Calls to one API process, each over a connection that is idle, or a new one.

    Real pilots have a connection each; here they share, since who speaks is in the token of each request.
    """

    def __init__(self, host: str, port: int, patience: float = 0.0) -> None:
        """`patience`: for so many seconds a call is repeated while the server is away or fails."""
        self._host, self._port = host, port
        self._patience = patience
        self._idle: list[Connection] = []
        self.seconds: defaultdict[str, list[float]] = defaultdict(list)
        """How long the calls took, by path."""

    async def post(self, path: str, body: Mapping[str, Any], token: str = "") -> dict[str, Any]:
        """The answer's JSON. Raises RuntimeError for any status but 2xx, OSError for a server that is gone."""
        content = to_json(body)
        authorization = f"Authorization: Bearer {token}\r\n" if token else ""
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {self._host}\r\n{authorization}"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        begun = time.perf_counter()
        status, answer = await self._patiently(head.encode() + content, begun + self._patience)
        self.seconds[path].append(time.perf_counter() - begun)
        if not 200 <= status < 300:
            raise RuntimeError(f"POST {path}: {status} {answer!r}")
        found: dict[str, Any] = from_json(answer) if answer else {}
        return found

    async def _patiently(self, request: bytes, until: float) -> tuple[int, bytes]:
        pause = 0.1
        while True:
            try:
                status, answer = await asyncio.wait_for(self._exchange(request), self._patience or None)
            except (asyncio.IncompleteReadError, OSError):
                if time.perf_counter() > until:
                    raise
            else:
                if status < _FAILED or time.perf_counter() > until:
                    return status, answer
            await asyncio.sleep(pause)
            pause = min(2.0, pause * 2)

    async def _exchange(self, request: bytes) -> tuple[int, bytes]:
        while self._idle:
            connection = self._idle.pop()
            try:
                return await self._over(connection, request)
            except (asyncio.IncompleteReadError, ConnectionError):
                connection[1].close()  # the server had closed it meanwhile
        return await self._over(await asyncio.open_connection(self._host, self._port), request)

    async def _over(self, connection: Connection, request: bytes) -> tuple[int, bytes]:
        reader, writer = connection
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        _, found, rest = head.partition(b"\r\ncontent-length:")
        answer = await reader.readexactly(int(rest.split(b"\r\n", 1)[0])) if found else b""
        self._idle.append(connection)
        return int(head[9:12]), answer


def slowness(wires: Sequence[Wire]) -> dict[str, dict[str, float]]:
    """By path: how many calls there were, and their median and 99th percentile in seconds."""
    found = {}
    for path in sorted({path for wire in wires for path in wire.seconds}):
        sorted_ = sorted(second for wire in wires for second in wire.seconds[path])
        half, most = sorted_[len(sorted_) // 2], sorted_[len(sorted_) * 99 // 100]
        found[path] = {"calls": len(sorted_), "p50": half, "p99": most}
    return found
