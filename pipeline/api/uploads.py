"""A request's body as bytes, never more of them than a limit."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Request

from pipeline.api.services import ServicesOf

MIB = 1 << 20

AS_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/gzip": {"schema": {"type": "string", "format": "binary"}}},
    }
}
"""`openapi_extra` of a route that takes an upload."""


async def read_upload(request: Request, services: ServicesOf) -> bytes:
    """The body, up to `sandbox_limit` MiB; 413 for more, before it is read to its end."""
    limit = services.settings.sandbox_limit * MIB
    if int(request.headers.get("content-length") or 0) > limit:
        raise _too_large(services.settings.sandbox_limit)
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > limit:
            raise _too_large(services.settings.sandbox_limit)
    return bytes(content)


Upload = Annotated[bytes, Depends(read_upload)]


def _too_large(limit: int) -> HTTPException:
    why = f"a sandbox or archive may have {limit} MiB; put large files into a storage, or raise PENSTOCK_SANDBOX_LIMIT"
    return HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, why)
