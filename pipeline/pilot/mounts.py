"""Mounts that a container runtime has left behind when it was killed: they keep folders from being removed."""

import ctypes
import os
import re

_MNT_DETACH = 2
_ESCAPED = re.compile(r"\\([0-7]{3})")


def detach_below(folder: str) -> None:
    """Take away what is mounted in a folder, the innermost first, as far as this process may."""
    inside = os.path.realpath(folder) + os.sep
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as stream:
            lines = stream.readlines()
    except OSError:
        return
    for line in reversed(lines):
        # spaces and such are written as octal numbers there
        path = _ESCAPED.sub(lambda found: chr(int(found.group(1), 8)), line.split(" ")[4])
        if path.startswith(inside):
            ctypes.CDLL(None).umount2(os.fsencode(path), _MNT_DETACH)
