"""How large the numbers are that the database can hold: what comes from outside is held to it where it comes in."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

MAX_ROW_ID = 2**63 - 1
MAX_COUNT = 2**31 - 1
MAX_SECONDS = 100 * 365 * 86_400
"""A hundred years: longer than anything here lasts, and short enough to be added to any clock."""


def _no_truth(said: Any) -> Any:
    is_truth = isinstance(said, bool)
    if is_truth:
        raise ValueError(f"it must be a number, not {str(said).lower()}")
    return said


NoTruth = BeforeValidator(_no_truth)
"""For numbers that people write: YAML reads `yes` and `on` as true, which would count as 1."""

RowId = Annotated[int, Field(ge=1, le=MAX_ROW_ID)]
Cursor = Annotated[int, Field(ge=0, le=MAX_ROW_ID)]
Bytes = Annotated[int, Field(ge=0, le=MAX_ROW_ID)]
Count = Annotated[int, Field(ge=0, le=MAX_COUNT), NoTruth]
Number = Annotated[int, Field(ge=1, le=MAX_COUNT), NoTruth]
Seconds = Annotated[float, Field(ge=0, le=MAX_SECONDS)]
ExitCode = Annotated[int, Field(ge=-MAX_COUNT, le=MAX_COUNT)]
