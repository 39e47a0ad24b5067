"""Waiting for a condition with a deadline, the only kind of waiting that a test does, and bounds on durations."""

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


def best_of(tries: int, seconds: Callable[[], float], *, bound: float) -> None:
    """One of so many tries takes less than `bound` seconds: a machine's other load slows a few, our own faults all."""
    taken: list[float] = []
    while len(taken) < tries and min(taken, default=bound) >= bound:
        taken.append(seconds())
    assert min(taken) < bound, f"the quickest of {tries} took {min(taken):.2f} s; {bound} s are allowed"
