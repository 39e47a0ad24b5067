"""How things are named that requirements and sites files speak of."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

LONGEST_NAME = 63
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,62}$")]
Names = tuple[Name, ...]
Word = Annotated[Name, AfterValidator(str.lower)]
"""A name in which upper and lower case are the same, such as a vendor's."""

_MACHINES = {"amd64": "x86_64", "x86-64": "x86_64", "arm64": "aarch64"}


def _machine(name: str) -> str:
    return _MACHINES.get(name.lower(), name.lower())


Machine = Annotated[Name, AfterValidator(_machine)]
"""A processor architecture as `uname -m` calls it; the other names of the same are brought to that."""
