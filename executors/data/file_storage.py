"""Storage of kind `file`: a folder that the server and the worker nodes share.

POSIX keeps no checksums, so whoever writes a file puts one beside it: `NAME.adler32` holds
{"adler32", "size", "mtime_ns"} of the file as it was written. It holds as long as size and time do, as
XRootD's checksum attribute does.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from executors.data.port import Stat
from pipeline.errors import StorageUnavailable


class FileStorage:
    """A folder; `url` is file:///..."""

    def __init__(self, url: str) -> None:
        self._root = Path(unquote(urlsplit(url).path))

    def stat(self, paths: Iterable[str]) -> Mapping[str, Stat | None]:
        """Sizes and the checksums beside the files."""
        self._require_root()
        return {path: _stat(self._root / path) for path in paths}

    def delete(self, folders: Iterable[str]) -> None:
        """Remove folders below the root."""
        self._require_root()
        for folder in folders:
            target = (self._root / folder).resolve()
            if target != self._root.resolve() and target.is_relative_to(self._root.resolve()):
                shutil.rmtree(target, ignore_errors=True)

    def _require_root(self) -> None:
        if not self._root.is_dir():
            raise StorageUnavailable(f"the storage's folder {self._root} is not there; is it mounted?")


def _stat(path: Path) -> Stat | None:
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StorageUnavailable(f"{path}: {error}") from error
    return Stat(found.st_size, _checksum(path, found.st_size, found.st_mtime_ns))


def _checksum(path: Path, size: int, mtime_ns: int) -> str | None:
    try:
        note = json.loads(path.with_name(path.name + ".adler32").read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(note, dict) or (note.get("size"), note.get("mtime_ns")) != (size, mtime_ns):
        return None
    return str(note.get("adler32"))
