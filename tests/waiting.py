"""Waiting for a condition with a deadline, the only kind of waiting that a test does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(check: Callable[[], T], *, within: float = 30.0, every: float = 0.05) -> T:
    """The first truthy answer of `check`, asked every `every` seconds; AssertionError after `within` seconds."""
    pause = threading.Event()
    deadline = time.monotonic() + within
    while True:
        answer = check()
        if answer:
            return answer
        if time.monotonic() > deadline:
            name = getattr(check, "__name__", "the condition")
            raise AssertionError(f"{name} was not met within {within} s: {answer!r}")
        pause.wait(every)
