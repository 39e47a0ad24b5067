"""Asking the node's own tools and files, none of which may be there, answer, or make sense."""

import os
import shutil
import signal
import subprocess
import tempfile
from typing import Dict, Optional, Tuple

PATIENCE = 10.0
"""Seconds that a tool gets: on a sick node some never answer."""
_MOST = 1 << 18


def ask(*command: str, patience: float = PATIENCE, environment: Optional[Dict[str, str]] = None) -> Optional[str]:
    """What a tool prints; None where it is missing, fails or takes too long. `environment`: none is the pilot's."""
    if not shutil.which(command[0]):
        return None
    try:
        # a file, not a pipe: what the tool may leave behind would keep a pipe open for as long as it lives
        with tempfile.TemporaryFile() as output:
            return _answer(command, output.fileno(), patience, environment)
    except OSError:
        return None


def content(path: str) -> str:
    """A file's text, empty where it can't be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read(_MOST)
    except OSError:
        return ""


def _answer(
    command: Tuple[str, ...], output: int, patience: float, environment: Optional[Dict[str, str]]
) -> Optional[str]:
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        code = process.wait(patience)
    except subprocess.TimeoutExpired:
        end(process)
        return None
    return os.pread(output, _MOST, 0).decode(errors="replace") if code == 0 else None


def end(process: "subprocess.Popen[bytes]") -> None:
    """Kill a tool that leads a session of its own."""
    os.killpg(process.pid, signal.SIGKILL)
    try:
        process.wait(1.0)
    except subprocess.TimeoutExpired:
        return  # it hangs in the kernel, as tools of broken devices do; init will bury it
