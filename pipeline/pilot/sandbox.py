"""The job's own files: fetched once per pilot, unpacked for each attempt, never outside its folder."""

import os
import shutil
import tarfile
import zlib
from typing import Set

from pipeline.pilot import durable
from pipeline.pilot.client import Client
from pipeline.pilot.errors import PayloadFailed

_KEPT = 32


class Sandboxes:
    """A folder of sandboxes by sha256: the jobs of an array share one."""

    def __init__(self, folder: str, client: Client) -> None:
        self._folder = folder
        self._client = client

    def fetch(self, sha256: str) -> str:
        """The path of a sandbox. Raises what `Client.download` raises."""
        path = os.path.join(self._folder, sha256 + ".tar.gz")
        if not os.path.exists(path):
            self._prune()
            self._client.download("/v1/pilots/self/sandboxes/" + sha256, path, sha256)
        return path

    def _prune(self) -> None:
        paths = [os.path.join(self._folder, name) for name in os.listdir(self._folder) if name.endswith(".tar.gz")]
        for path in sorted(paths, key=os.path.getmtime)[: -_KEPT + 1]:
            durable.remove(path)


def unpack(path: str, folder: str, limit: int) -> None:
    """Unpack a tar.gz of at most `limit` bytes into `folder`.

    Raises PayloadFailed when an entry would leave the folder, is a device, or the content is too large or broken.
    """
    root = os.path.realpath(folder)
    made: Set[str] = set()
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                limit -= member.size
                if limit < 0:
                    raise _refused("it is larger than the job's disk limit")
                _unpack_entry(archive, member, root, made)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise _refused("broken archive: {}".format(error)) from error


def _unpack_entry(archive: tarfile.TarFile, member: tarfile.TarInfo, root: str, made: Set[str]) -> None:
    path = os.path.normpath(os.path.join(root, member.name))
    parent = os.path.realpath(os.path.dirname(path))
    if path == root and member.isdir():
        return
    # the real path too: an earlier entry may have been a link
    if os.path.isabs(member.name) or not _inside(path, root) or not (parent == root or _inside(parent, root)):
        raise _refused("entry {!r} lies outside of the working directory".format(member.name))
    if os.path.lexists(path) and not (member.isdir() and os.path.isdir(path)):
        raise _refused("entry {!r} is there twice".format(member.name))
    if parent not in made:
        os.makedirs(parent, exist_ok=True)
        made.add(parent)
    if member.isdir():
        os.makedirs(path, exist_ok=True)
    elif member.issym():
        _link(member, path, parent, root)
    else:
        _write(archive, member, path)


def _link(member: tarfile.TarInfo, path: str, parent: str, root: str) -> None:
    target = os.path.realpath(os.path.join(parent, member.linkname))
    if target != root and not _inside(target, root):
        raise _refused("link {!r} points outside of the working directory".format(member.name))
    os.symlink(member.linkname, path)


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
    try:
        content = archive.extractfile(member) if member.isfile() or member.islnk() else None
    except KeyError:
        content = None
    if content is None:
        raise _refused("entry {!r} is neither file, folder nor link".format(member.name))
    with content, open(path, "xb") as stream:
        shutil.copyfileobj(content, stream, 1 << 20)
    os.chmod(path, member.mode & 0o777 | 0o600)


def _inside(path: str, root: str) -> bool:
    return path.startswith(root + os.sep)


def _refused(words: str) -> PayloadFailed:
    return PayloadFailed("sandbox: " + words, "sandbox_invalid")
