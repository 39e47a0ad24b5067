"""The local files that a step names, as one archive: the same bytes from the same files."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from pipeline.errors import BadInput
from schemas.campaign import Campaign

MIB = 1 << 20


def pack_sandboxes(job_file: Path, campaign: Campaign, limit: int) -> Mapping[str, bytes]:
    """A tar.gz by step, for steps that send files; `limit` is MiB for each.

    Raises BadInput for a file that is not there, and for an archive over the limit.
    """
    packed = {}
    for position, step in enumerate(campaign.steps):
        if step.sandbox:
            field = f"{job_file}: steps.{position}.sandbox"
            packed[step.name] = pack(_members(job_file.parent, step.sandbox, field), limit * MIB, field)
    return packed


def pack(members: Mapping[str, Path], limit: int, field: str) -> bytes:
    """A tar.gz of files by their name in it. Owners and times do not go in, so that equal files are stored once.

    Raises BadInput, with `field` in front, above `limit` bytes and for a file that can't be read.
    """
    buffer = _Bounded(limit, field)
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=buffer, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name, path in sorted(members.items()):
            try:
                with path.open("rb") as stream:
                    archive.addfile(_entry(name, path), stream)
            except OSError as error:
                raise BadInput(f"{field}: {path}: {error.strerror or error}") from error
    return buffer.getvalue()


class _Bounded(io.BytesIO):
    """Memory that refuses to grow over the limit: a large file is noticed before it is in memory whole."""

    def __init__(self, limit: int, field: str) -> None:
        super().__init__()
        self._limit = limit
        self._field = field

    def write(self, data: bytes | bytearray | memoryview, /) -> int:  # type: ignore[override] # narrower on purpose
        if self.tell() + len(data) > self._limit:
            raise BadInput(
                f"{self._field}: the files pack to over {self._limit / MIB:g} MiB; put large ones into a storage, "
                "or raise PENSTOCK_SANDBOX_LIMIT (the API's, too)"
            )
        return super().write(data)


def _members(folder: Path, names: Iterable[str], field: str) -> dict[str, Path]:
    members: dict[str, Path] = {}
    for name in names:
        given = folder / name
        # in the job's folder a file lies where it lies beside the job file; one from elsewhere, at the top
        inside = not Path(name).is_absolute() and ".." not in Path(name).parts
        top = Path(name) if inside else Path(given.name)
        for path in _files(given, field):
            place = str(top / path.relative_to(given)) if path != given else str(top)
            if members.setdefault(place, path) != path:
                raise BadInput(f"{field}: {members[place]} and {path} would both become {place}")
    return members


def _files(given: Path, field: str) -> list[Path]:
    if given.is_file():
        return [given]
    if not given.exists():
        raise BadInput(f"{field}: there is no file {given}")
    found = [path for path in given.rglob("*") if path.is_file()] if given.is_dir() else []
    if not found:
        raise BadInput(f"{field}: {given} is neither a file nor a folder with files")
    return found


def _entry(name: str, path: Path) -> tarfile.TarInfo:
    status = path.stat()
    entry = tarfile.TarInfo(name)
    entry.size = status.st_size
    entry.mode = 0o755 if status.st_mode & 0o100 else 0o644
    return entry
