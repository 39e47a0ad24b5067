"""Become another program that the kernel ends with our parent: `tether.py PARENT_PID PROGRAM ARGUMENT...`.

A program of its own, and not a `preexec_fn`: that is not safe in a process with threads.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, *command = sys.argv[1:]
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != int(parent):
        sys.exit("the parent ended before its child began")
    os.execvp(command[0], command)  # noqa: S606 - no shell is wanted


main()
