"""Job archives on a user's machine: unpacked inside a folder, or not at all.

An archive holds regular files and nothing else, so that is all that is taken from one; the filters of newer
standard libraries are not in Debian 12's Python 3.11.2.
"""

from __future__ import annotations

import io
import shutil
import tarfile
import tempfile
import zlib
from pathlib import Path, PurePosixPath

from pipeline.errors import BadInput

SIZE_LIMIT = 1 << 30
"""Bytes that an archive may unpack to: 10 MiB of it can hide terabytes."""


def unpack(content: bytes, folder: Path) -> list[Path]:
    """Unpack a tar.gz into `folder`; the files, relative to it.

    Raises BadInput when an entry would leave the folder or is no file, or the content is broken or too large;
    nothing is left in the folder then.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=folder.parent) as name:
        aside = Path(name)
        try:
            with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
                members = [member for member in archive.getmembers() if not member.isdir()]
                _check(members, folder)
                for member in members:
                    _write(archive, member, aside)
        except (tarfile.TarError, EOFError, zlib.error) as error:
            raise BadInput(f"the archive was not unpacked: it can't be read: {error}") from error
        shutil.copytree(aside, folder, dirs_exist_ok=True)
        return sorted(path.relative_to(aside) for path in aside.rglob("*") if path.is_file())


def _check(members: list[tarfile.TarInfo], folder: Path) -> None:
    size = sum(member.size for member in members)
    if size > SIZE_LIMIT:
        raise BadInput(f"the archive unpacks to {size} bytes; {SIZE_LIMIT} are allowed; nothing was unpacked")
    for member in members:
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts:
            raise BadInput(f"the archive was not unpacked: its entry {member.name!r} would leave {folder}")
        if not member.isreg():
            raise BadInput(f"the archive was not unpacked: its entry {member.name!r} is no regular file")


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    target = folder / member.name
    target.parent.mkdir(parents=True, exist_ok=True)
    source = archive.extractfile(member)
    assert source is not None, "a regular file has content"
    with source, target.open("wb") as stream:
        shutil.copyfileobj(source, stream)
