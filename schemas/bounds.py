"""How large the numbers are that the database can hold: what comes from outside is held to it where it comes in."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

MAX_ROW_ID = 2**63 - 1
MAX_COUNT = 2**31 - 1
MAX_SECONDS = 100 * 365 * 86_400
"""A hundred years: longer than anything here lasts, and short enough to be added to any clock."""

RowId = Annotated[int, Field(ge=1, le=MAX_ROW_ID)]
Cursor = Annotated[int, Field(ge=0, le=MAX_ROW_ID)]
Bytes = Annotated[int, Field(ge=0, le=MAX_ROW_ID)]
Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Number = Annotated[int, Field(ge=1, le=MAX_COUNT)]
Seconds = Annotated[float, Field(ge=0, le=MAX_SECONDS)]
ExitCode = Annotated[int, Field(ge=-MAX_COUNT, le=MAX_COUNT)]
