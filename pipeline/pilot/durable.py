"""Files that are either there as a whole, safe from a crash, or not there at all."""

import os
import uuid
from contextlib import contextmanager
from typing import IO, Iterator


@contextmanager
def replacing(path: str) -> Iterator[IO[bytes]]:
    """A file to write; it takes the place of `path` when the block ends well. Raises OSError."""
    folder = os.path.dirname(os.path.abspath(path))
    part = os.path.join(folder, ".{}.part".format(uuid.uuid4().hex))
    # os.open and not tempfile: outputs must be readable by whom the umask allows, not by the owner alone
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.rename(part, path)
    except BaseException:
        remove(part)
        raise
    _sync_folder(folder)


def write(path: str, content: bytes) -> None:
    """Put `content` at `path` in one step. Raises OSError."""
    with replacing(path) as stream:
        stream.write(content)


def remove(path: str) -> None:
    """Remove a file that may be gone already."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        return  # some network file systems can't; the file itself is synced
    finally:
        os.close(descriptor)
