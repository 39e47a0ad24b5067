"""Whether an uploaded archive holds what it may: regular files, below the folder that it is unpacked into."""

from __future__ import annotations

import io
import tarfile
import zlib
from pathlib import PurePosixPath

from pipeline.errors import BadInput

MAX_MEMBERS = 10_000
MAX_UNPACKED = 1 << 30
"""Bytes; a member's size is known before its content is unpacked, so that a bomb does not go off here."""


def check_archive(content: bytes) -> None:
    """Raises BadInput for anything but a tar.gz of regular files and folders with relative names without `..`."""
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
            unpacked = 0
            for count, member in enumerate(archive, start=1):
                unpacked += member.size
                if unpacked > MAX_UNPACKED:
                    raise BadInput(f"the archive holds more than {MAX_UNPACKED} bytes when it is unpacked")
                if count > MAX_MEMBERS:
                    raise BadInput(f"the archive has more than {MAX_MEMBERS} members; narrow the job's `archive` globs")
                _check_member(member)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise BadInput(f"the archive is no tar.gz that can be read: {error}") from error


def _check_member(member: tarfile.TarInfo) -> None:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        raise BadInput(f"the archive's member {member.name!r} lies outside of it; names must be relative, without `..`")
    if not (member.isreg() or member.isdir()):
        raise BadInput(f"the archive's member {member.name!r} is no regular file")
