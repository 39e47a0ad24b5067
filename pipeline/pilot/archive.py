"""What is kept of an attempt: its standard output and error, and the small files that the job asked for."""

import glob
import gzip
import io
import os
import tarfile
from contextlib import contextmanager
from typing import IO, Iterator, List, Sequence

from pipeline.pilot import durable, streams

LIMIT = (10 << 20) - (128 << 10)
"""Bytes of content: what the API takes (10 MiB), less room for tar headers and for content that can't be packed."""
LOG_LIMIT = streams.LIMIT
LOGS = ("stdout.txt", "stderr.txt")
_LEFT_OUT = "left-out.txt"


def pack(target: str, logs: str, folder: str, patterns: Sequence[str]) -> None:
    """Write a tar.gz of the logs' last 1 MiB and of the regular files in `folder` that match `patterns`.

    Files that no longer fit are named in `left-out.txt` inside. Raises OSError.
    """
    left = LIMIT
    left_out: List[str] = []
    with durable.replacing(target) as stream, _packing(stream) as archive:
        for name in LOGS:
            content = last_bytes(os.path.join(logs, name), LOG_LIMIT)
            left -= len(content)
            _add(archive, name, content)
        for name in _matches(folder, patterns):
            path = os.path.join(folder, name)
            if os.path.getsize(path) > left:
                left_out.append(name)
                continue
            with open(path, "rb") as file:
                content = file.read(left)
            left -= len(content)
            _add(archive, name, content)
        if left_out:
            _add(archive, _LEFT_OUT, "".join(name + "\n" for name in left_out).encode(errors="replace")[:LOG_LIMIT])


@contextmanager
def _packing(stream: IO[bytes]) -> Iterator[tarfile.TarFile]:
    with gzip.GzipFile("", "wb", 6, stream, 0) as packed, tarfile.open(mode="w", fileobj=packed) as archive:
        yield archive


def last_bytes(path: str, limit: int) -> bytes:
    """The end of a file; nothing if it isn't there."""
    try:
        with open(path, "rb") as stream:
            stream.seek(max(os.fstat(stream.fileno()).st_size - limit, 0))
            return stream.read(limit)
    except FileNotFoundError:
        return b""


def _matches(folder: str, patterns: Sequence[str]) -> Iterator[str]:
    root = os.path.realpath(folder)
    seen = {*LOGS, _LEFT_OUT}
    for pattern in patterns:
        for path in sorted(glob.iglob(os.path.join(glob.escape(folder), pattern), recursive=True)):
            name = os.path.relpath(path, folder)
            real = os.path.realpath(path)
            if name in seen or not real.startswith(root + os.sep) or os.path.islink(path) or not os.path.isfile(path):
                continue
            seen.add(name)
            yield name


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))
