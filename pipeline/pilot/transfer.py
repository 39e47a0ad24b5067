"""Copies of files between the working directory and storages, checked by size and adler32.

A stored file gets a sidecar `<name>.adler32` beside it: JSON with `adler32`, `size` and `mtime_ns` of the file. It is
how the `file` storage answers for a checksum by metadata; a sidecar whose size or time disagree counts for nothing.
"""

import json
import os
import zlib
from typing import Callable, NamedTuple
from urllib.parse import unquote, urlsplit

from pipeline.pilot import durable
from pipeline.pilot.errors import PilotError

_CHUNK = 1 << 20
Check = Callable[[], None]


class TransferFailed(PilotError):
    """One copy did not succeed; the message names the URL."""


class Copied(NamedTuple):
    """What was written: size in bytes, adler32 in hexadecimal."""

    size: int
    adler32: str


def fetch(url: str, target: str, size: int, adler32: str, check: Check) -> None:
    """Copy `url` to `target`. Raises TransferFailed, also when size or adler32 are not the promised ones.

    `check` is called between chunks and may raise to give up.
    """
    source = local_path(url)
    try:
        copied = _copy(source, target, check)
    except OSError as error:
        raise TransferFailed("{}: {}".format(url, error)) from error
    if copied != Copied(size, adler32):
        durable.remove(target)
        raise TransferFailed("{}: has {} bytes with adler32 {}, not {} with {}".format(url, *copied, size, adler32))


def store(source: str, url: str, check: Check) -> Copied:
    """Copy `source` to `url`, sidecar included. Raises TransferFailed."""
    target = local_path(url)
    try:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        copied = _copy(source, target, check)
        status = os.stat(target)
        sidecar = {"adler32": copied.adler32, "size": copied.size, "mtime_ns": status.st_mtime_ns}
        durable.write(target + ".adler32", json.dumps(sidecar).encode())
    except OSError as error:
        raise TransferFailed("{}: {}".format(url, error)) from error
    if status.st_size != copied.size:
        raise TransferFailed("{}: {} bytes were written, {} are there".format(url, copied.size, status.st_size))
    return copied


def local_path(url: str) -> str:
    """The path of a file:// URL. Raises TransferFailed for any other."""
    parts = urlsplit(url)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise TransferFailed("{}: this pilot can only copy file:///absolute/path".format(url))
    return unquote(parts.path)


def _copy(source: str, target: str, check: Check) -> Copied:
    size, adler32 = 0, 1
    with open(source, "rb") as reader, durable.replacing(target) as writer:
        for chunk in iter(lambda: reader.read(_CHUNK), b""):
            check()
            writer.write(chunk)
            size += len(chunk)
            adler32 = zlib.adler32(chunk, adler32)
    return Copied(size, format(adler32 & 0xFFFFFFFF, "08x"))
