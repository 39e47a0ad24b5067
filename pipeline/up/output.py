"""What the processes of `penstock up` say, line by line, each line with its process's name in front."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from threading import Lock
from typing import IO

from pipeline.log_fields import NAMED

_COLOURS = (36, 33, 32, 35, 34, 31)
_LEVELS = {"warning": 33, "error": 31, "critical": 31}

SHOWN = {name: NAMED[name] for name in ("user", "method", "path", "status", "error")}
"""Fields beside the labels that a person wants to read."""


class Output:
    """Standard output, shared by threads. On a terminal JSON log lines are made readable and names coloured."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._lock = Lock()
        self._terminal = sys.stdout.isatty()
        self._width = max(map(len, names))
        self._colours = dict(zip(names, _COLOURS * len(names), strict=False))

    def say(self, name: str, line: str) -> None:
        """One line of the process `name`; one that is not known yet gets a colour, and room."""
        if name not in self._colours:
            self._width = max(self._width, len(name))
            self._colours[name] = _COLOURS[len(self._colours) % len(_COLOURS)]
        prefix = f"{name:<{self._width}} | "
        if self._terminal:
            prefix = _coloured(prefix, self._colours.get(name, 0))
            line = readable(line)
        self.print(prefix + line)

    def print(self, line: str) -> None:
        """A line as it is. Nobody listening any more is no reason to end."""
        with self._lock, suppress(OSError, ValueError):
            sys.stdout.write(line + "\n")
            sys.stdout.flush()

    def copy(self, name: str, stream: IO[bytes]) -> None:
        """Say every line of a stream until it ends."""
        with stream:
            for line in stream:
                self.say(name, line.decode(errors="replace").rstrip("\r\n"))


def readable(line: str) -> str:
    """A JSON log line as a person reads it; any other line as it is."""
    try:
        event = json.loads(line)
    except ValueError:
        return line
    if not isinstance(event, dict) or "@timestamp" not in event:
        return line
    level = str(event.get("log.level", "info"))
    labels = {name: event[field] for name, field in SHOWN.items() if field in event} | (event.get("labels") or {})
    words = [str(event["@timestamp"])[11:19], f"{level:<7}", str(event.get("message", ""))]
    words += [f"{name}={value}" for name, value in labels.items()]
    text = " ".join(words)
    if trace := event.get("error.stack_trace"):
        text += f"\n{trace}"
    return _coloured(text, _LEVELS[level]) if level in _LEVELS else text


def _coloured(text: str, colour: int) -> str:
    return f"\x1b[{colour}m{text}\x1b[0m" if colour else text
