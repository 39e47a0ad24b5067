"""Words on a terminal: numbers with their nouns, and text of others that must not steer it."""

from __future__ import annotations

import re
import textwrap

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

_MINUTES_FROM, _HOURS_FROM = 120.0, 7_200.0
"""Seconds."""


def counted(number: int, noun: str, several: str = "") -> str:
    """`1 job`, `2 jobs`; `several`: the plural, where it is not that plain."""
    return f"{number} {noun}" if number == 1 else f"{number} {several or noun + 's'}"


def lasting(seconds: float) -> str:
    """How long something took: `0.4 s`, `12 min`, `3.5 h`."""
    if seconds < _MINUTES_FROM:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < _HOURS_FROM else f"{seconds / 3600:.1f} h"


def printable(text: str) -> str:
    """`text` with control characters spelled out: names and reasons come from other people."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match.group()):02x}", text)


def one_line(text: str) -> str:
    """`text` on one line, printable."""
    return printable(" ".join(text.split()))


def folded(text: str, width: int, indent: int) -> str:
    """`text` on lines of `width` at the most, apart from words that are longer; all but the first begin so far in."""
    if len(text) <= width - indent:
        return text
    lines = textwrap.wrap(text, max(width - indent, 1), break_long_words=False, break_on_hyphens=False)
    return f"\n{' ' * indent}".join(lines)
