"""Versions: numbers with dots between them, compared number by number, so that 2.9 is less than 2.28."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

_VERSION = re.compile(r"\d{1,9}(\.\d{1,9}){0,7}", re.ASCII)


@lru_cache(maxsize=10_000)
def numbers(version: str) -> tuple[int, ...]:
    """What `version` is compared by; 12 and 12.0 are the same. Raises ValueError for anything else than a version."""
    if _VERSION.fullmatch(version) is None:
        raise ValueError(f"{version[:40]!r} is no version; one is up to eight numbers with dots between, such as 2.28")
    found = [int(part) for part in version.split(".")]
    while len(found) > 1 and found[-1] == 0:
        found.pop()
    return tuple(found)


def _written_out(version: Any) -> Any:
    is_truth = isinstance(version, bool)
    if is_truth:
        raise ValueError(f"it must be a version in quotes, such as '2.28', not {str(version).lower()}")
    is_number = isinstance(version, int | float)
    if is_number:
        raise ValueError(f"write the version {version} in quotes: as a number, 2.10 would be 2.1")
    return version


def _checked(version: str) -> str:
    numbers(version)
    return version


Version = Annotated[str, BeforeValidator(_written_out), AfterValidator(_checked)]
