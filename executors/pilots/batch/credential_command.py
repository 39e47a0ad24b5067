"""Running the command that prints a credential."""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress

from executors.pilots.batch.environment import outsiders_environment
from pipeline.errors import BatchSystemUnavailable

_LONG = re.compile(r"\S{32,}")
_COMPLAINT = 200
"""Characters of a command's last words that an error repeats."""


def run_command(command: Sequence[str], timeout: float, largest: int) -> str:
    """What it prints on standard output. It learns nothing of Penstock's settings.

    Raises BatchSystemUnavailable when it can't be started, fails, prints more than `largest` bytes or takes longer
    than `timeout` seconds; then it and what it started are ended.
    """
    try:
        process = subprocess.Popen(
            command,
            env=outsiders_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise BatchSystemUnavailable(f"it can't be started: {error.strerror}") from error
    try:
        printed, complaint = _communicate(process, timeout, largest)
    except BaseException:  # whatever it was, nothing that hangs is left behind
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    if process.returncode != 0:
        raise BatchSystemUnavailable(f"it failed with exit code {process.returncode}{_last_words(complaint)}")
    return printed.decode("ascii", errors="replace")


def _communicate(process: subprocess.Popen[bytes], timeout: float, largest: int) -> tuple[bytes, bytes]:
    assert process.stdout is not None
    assert process.stderr is not None
    streams = (process.stdout, process.stderr)
    texts = {stream.fileno(): bytearray() for stream in streams}
    deadline = time.monotonic() + timeout
    with selectors.DefaultSelector() as selector, process.stdout, process.stderr:
        for stream in streams:
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select(max(0.0, deadline - time.monotonic())):
                chunk = os.read(key.fd, 65_536)
                texts[key.fd] += chunk
                if not chunk:
                    selector.unregister(key.fileobj)
            if time.monotonic() >= deadline:
                raise BatchSystemUnavailable(f"it did not end within {timeout:.0f} s")
            if any(len(text) > largest for text in texts.values()):
                raise BatchSystemUnavailable(f"it printed more than {largest} bytes")
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise BatchSystemUnavailable(f"it did not end within {timeout:.0f} s") from None
        printed, complaint = (bytes(texts[stream.fileno()]) for stream in streams)
    return printed, complaint


def _last_words(complaint: bytes) -> str:
    """The last line of its standard error, without words that are so long that they could be a secret."""
    lines = complaint.decode(errors="replace").strip().splitlines()
    return f": {_LONG.sub('...', lines[-1])[-_COMPLAINT:]}" if lines else ""
