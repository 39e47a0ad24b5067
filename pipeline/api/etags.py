"""Answers that pollers are spared while nothing changes: by their ETag, which is their content's digest."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any

from fastapi import Header, Response
from pydantic import BaseModel

IfNoneMatch = Annotated[str | None, Header()]
NOT_MODIFIED: dict[int | str, dict[str, Any]] = {304: {"description": "nothing has changed since that ETag"}}


def answer_if_changed(view: BaseModel, known: str | None) -> Response:
    """The view as JSON with its ETag; 304 for who knows it already."""
    content = view.model_dump_json()
    etag = f'"{hashlib.sha256(content.encode()).hexdigest()[:32]}"'
    headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
    if known == etag:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type="application/json", headers=headers)
