"""Job archives on a user's machine: unpacked inside a folder, or not at all."""

from __future__ import annotations

import io
import shutil
import tarfile
import tempfile
import zlib
from pathlib import Path

from pipeline.errors import BadInput

SIZE_LIMIT = 1 << 30
"""Bytes that an archive may unpack to: 10 MiB of it can hide terabytes."""


def unpack(content: bytes, folder: Path) -> list[Path]:
    """Unpack a tar.gz into `folder`; the files, relative to it.

    Raises BadInput when an entry would leave the folder, is a device, or the content is broken or too large;
    nothing is left in the folder then.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=folder.parent) as name:
        aside = Path(name).resolve()
        try:
            with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
                members = archive.getmembers()
                size = sum(member.size for member in members)
                if size > SIZE_LIMIT:
                    raise BadInput(
                        f"the archive unpacks to {size} bytes; {SIZE_LIMIT} are allowed; nothing was unpacked"
                    )
                archive.extractall(aside, members=[_relative(member) for member in members], filter="data")
        except tarfile.FilterError as error:
            raise BadInput(
                f"the archive was not unpacked: its entry {error.tarinfo.name!r} would leave {folder}"
            ) from error
        except (tarfile.TarError, EOFError, zlib.error) as error:
            raise BadInput(f"the archive was not unpacked: it can't be read: {error}") from error
        shutil.copytree(aside, folder, symlinks=True, dirs_exist_ok=True)
        return sorted(path.relative_to(aside) for path in aside.rglob("*") if not path.is_dir())


def _relative(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """The member as it is; the standard library would quietly take the slash from an absolute name."""
    if member.name.startswith("/"):
        raise tarfile.AbsolutePathError(member)
    return member
