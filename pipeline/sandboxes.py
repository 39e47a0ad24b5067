"""Sandboxes, job archives and what pilots wrote: small files in an fsspec file system, apart by VO."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any

from fsspec import get_filesystem_class
from fsspec.core import url_to_fs
from fsspec.utils import get_protocol

from pipeline.errors import BadSettings, NotFound, StorageUnavailable


def check_url(url: str) -> None:
    """Raises BadSettings for a kind of file system that nobody here can reach. It connects to nothing."""
    try:
        for part in url.split("::"):
            get_filesystem_class(get_protocol(part))
    except (ValueError, ImportError) as error:
        raise BadSettings(f"PENSTOCK_SANDBOX_URL: {url!r}: {error}") from error


class Sandboxes:
    """A folder of blobs. A blob is there in whole or not at all. Raises StorageUnavailable when it can't be reached."""

    def __init__(self, url: str) -> None:
        try:
            self._files, root = url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise BadSettings(f"PENSTOCK_SANDBOX_URL: {url!r}: {error}") from error
        self._root = str(root).rstrip("/")
        self._local = "file" in _protocols(self._files)

    def put(self, vo: str, digest: str, content: bytes) -> None:
        """Keep a sandbox under its sha256, which the caller has checked."""
        self._write(_sandbox_path(vo, digest), content)

    def get(self, vo: str, digest: str) -> bytes:
        """A sandbox. Raises NotFound."""
        return self._read(_sandbox_path(vo, digest), f"sandbox {digest}")

    def exists(self, vo: str, digest: str) -> bool:
        """Whether a sandbox is there."""
        try:
            return bool(self._files.exists(f"{self._root}/{_sandbox_path(vo, digest)}"))
        except OSError as error:
            raise self._unavailable(error) from error

    def remove(self, vo: str, digest: str) -> None:
        """Delete a sandbox that nothing refers to; one that is gone already is no error."""
        self._remove(_sandbox_path(vo, digest))

    def put_archive(self, vo: str, job_id: int, attempt: int, content: bytes) -> None:
        """Keep an attempt's archive; a later one of the same attempt takes its place."""
        self._write(_archive_path(vo, job_id, attempt), content)

    def get_archive(self, vo: str, job_id: int, attempt: int) -> bytes:
        """An attempt's archive. Raises NotFound."""
        return self._read(_archive_path(vo, job_id, attempt), f"archive of job {job_id}, attempt {attempt},")

    def newest_archive(self, vo: str, job_id: int) -> tuple[int, bytes] | None:
        """The attempt and the content of a job's newest archive, None when it has none."""
        attempts = self.archived_attempts(vo, job_id)
        return (attempts[-1], self.get_archive(vo, job_id, attempts[-1])) if attempts else None

    def archived_attempts(self, vo: str, job_id: int) -> list[int]:
        """The attempts at a job that have an archive, in order."""
        folder = f"{self._root}/{vo}/archives/{job_id}"
        try:
            self._files.invalidate_cache(folder)
            names = [str(path).rsplit("/", 1)[-1] for path in self._files.ls(folder, detail=False)]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise self._unavailable(error) from error
        return sorted(int(name.removesuffix(".tar.gz")) for name in names if name.endswith(".tar.gz"))

    def remove_archives(self, vo: str, job_id: int) -> None:
        """Delete every archive of a job."""
        for attempt in self.archived_attempts(vo, job_id):
            self._remove(_archive_path(vo, job_id, attempt))

    def put_pilot_output(self, vo: str, pilot_id: int, stdout: str, stderr: str) -> None:
        """Keep the ends of what a pilot wrote; later ones take their place."""
        content = json.dumps({"stdout": stdout, "stderr": stderr})
        self._write(_pilot_output_path(vo, pilot_id), content.encode())

    def get_pilot_output(self, vo: str, pilot_id: int) -> tuple[str, str]:
        """The ends of a pilot's standard output and error. Raises NotFound."""
        kept = json.loads(self._read(_pilot_output_path(vo, pilot_id), f"output of pilot {pilot_id}"))
        return kept["stdout"], kept["stderr"]

    def remove_pilot_output(self, vo: str, pilot_id: int) -> None:
        """Delete it; one that is not there is no error."""
        self._remove(_pilot_output_path(vo, pilot_id))

    def _write(self, path: str, content: bytes) -> None:
        whole = f"{self._root}/{path}"
        try:
            if self._local:
                _write_durably(Path(whole), content)
            else:
                self._files.makedirs(whole.rsplit("/", 1)[0], exist_ok=True)
                self._files.pipe_file(whole, content)
        except OSError as error:
            raise self._unavailable(error) from error

    def _read(self, path: str, what: str) -> bytes:
        try:
            content = self._files.cat_file(f"{self._root}/{path}")
        except FileNotFoundError as error:
            raise NotFound(f"there is no {what} in the sandbox store") from error
        except OSError as error:
            raise self._unavailable(error) from error
        assert isinstance(content, bytes)
        return content

    def _remove(self, path: str) -> None:
        try:
            self._files.rm_file(f"{self._root}/{path}")
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: OSError) -> StorageUnavailable:
        return StorageUnavailable(f"the sandbox store {self._root}: {error}; check PENSTOCK_SANDBOX_URL and its server")


def _sandbox_path(vo: str, digest: str) -> str:
    return f"{vo}/sandboxes/{digest[:2]}/{digest}.tar.gz"


def _archive_path(vo: str, job_id: int, attempt: int) -> str:
    return f"{vo}/archives/{job_id}/{attempt}.tar.gz"


def _pilot_output_path(vo: str, pilot_id: int) -> str:
    return f"{vo}/pilots/{pilot_id}.json"


def _protocols(files: Any) -> tuple[str, ...]:
    names = files.protocol
    return (names,) if isinstance(names, str) else tuple(names)


def _write_durably(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with partial.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
