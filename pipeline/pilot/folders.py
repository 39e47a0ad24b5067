"""The pilot's work directory."""

import os
import shutil
from contextlib import suppress
from typing import NamedTuple, Tuple

from pipeline.pilot import durable
from pipeline.pilot.errors import BadOptions

Key = Tuple[int, int]


class Folders(NamedTuple):
    """`jobs`: working directories, `logs`: their output (out of the payloads' way), the rest by its name."""

    jobs: str
    logs: str
    sandboxes: str
    archives: str
    reports: str
    ledger: str
    containers: str

    def job(self, key: Key) -> str:
        return os.path.join(self.jobs, "{}-{}".format(*key))

    def log(self, key: Key) -> str:
        return os.path.join(self.logs, "{}-{}".format(*key))

    def clear(self, key: Key) -> None:
        """Remove what one attempt left."""
        remove(self.job(key))
        remove(self.log(key))


def make(workdir: str) -> Folders:
    """The folders below `workdir`, made where they are missing, for this account alone.

    Raises BadOptions when somebody else put it there, OSError when it can't be written.
    """
    os.makedirs(workdir, mode=0o700, exist_ok=True)
    if os.stat(workdir).st_uid != os.geteuid():
        raise BadOptions("the work directory {} belongs to another account; give --workdir".format(workdir))
    folders = Folders(*(os.path.join(workdir, name) for name in Folders._fields))
    for folder in folders:
        os.makedirs(folder, mode=0o700, exist_ok=True)
    durable.write(os.path.join(workdir, ".writable"), b"")
    return folders


def remove(folder: str) -> None:
    """Remove a folder with all that is in it, as far as that is possible: also what payloads have locked."""
    shutil.rmtree(folder, ignore_errors=True)
    if os.path.isdir(folder):
        _unlock(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _unlock(folder: str) -> None:
    """Some make folders that nobody may write to, such as caches of modules."""
    with suppress(OSError):
        os.chmod(folder, 0o700)
    for above, names, _ in os.walk(folder):
        for path in (os.path.join(above, name) for name in names):
            if not os.path.islink(path):
                with suppress(OSError):
                    os.chmod(path, 0o700)
