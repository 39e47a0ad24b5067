"""Errors on the wire: application/problem+json (RFC 9457), the field and the reason where they are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from structlog import get_logger

from pipeline.errors import (
    BadInput,
    BatchSystemUnavailable,
    BrokerUnavailable,
    Conflict,
    DatabaseUnavailable,
    DemandUnknown,
    Forbidden,
    NotFound,
    PenstockError,
    StorageUnavailable,
    Unauthorized,
)
from schemas.api import FieldProblem, Problem

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER = "5"
"""Seconds after which a client may ask again when something of ours is down."""

_STATUS: Mapping[type[PenstockError], HTTPStatus] = {
    Unauthorized: HTTPStatus.UNAUTHORIZED,
    Forbidden: HTTPStatus.FORBIDDEN,
    NotFound: HTTPStatus.NOT_FOUND,
    Conflict: HTTPStatus.CONFLICT,
    BadInput: HTTPStatus.BAD_REQUEST,
    DatabaseUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    BrokerUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    StorageUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    BatchSystemUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    DemandUnknown: HTTPStatus.SERVICE_UNAVAILABLE,
}
_HEADERS: Mapping[HTTPStatus, Mapping[str, str]] = {
    HTTPStatus.UNAUTHORIZED: {"WWW-Authenticate": "Bearer"},
    HTTPStatus.SERVICE_UNAVAILABLE: {"Retry-After": RETRY_AFTER},
}
_WHERE = frozenset({"body", "query", "path", "header"})

_log = get_logger("api")

DOCUMENTED: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "what is wrong, with which input, and what to do",
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
}
"""What the OpenAPI document says of errors, on every route."""


def install(app: FastAPI) -> None:
    """Let every error of `app` leave as a problem, without a thread, of which none may be free."""
    app.add_exception_handler(PenstockError, _on_penstock_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_defect)


async def _on_penstock_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, PenstockError)
    return answer_to(error, request.url.path)


def answer_to(error: PenstockError, path: str) -> Response:
    """The problem that a request to `path` is answered with."""
    status = next((_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS), HTTPStatus.INTERNAL_SERVER_ERROR)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        _log.warning("request_failed", path=path, status=int(status), error=str(error), outcome="failure")
    field = error.field if isinstance(error, BadInput) else None
    fields = (FieldProblem(field=field, reason=str(error)),) if field else ()
    return _answer(status, str(error), fields, _HEADERS.get(status))


async def _on_invalid(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, RequestValidationError)
    fields = tuple(FieldProblem(field=_field(found["loc"]), reason=_reason(found)) for found in _causes(error))
    detail = "; ".join(f"{found.field}: {found.reason}" if found.field else found.reason for found in fields[:3])
    return _answer(HTTPStatus.UNPROCESSABLE_ENTITY, detail, fields)


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = error.detail
    if error.status_code == HTTPStatus.NOT_FOUND:
        detail = f"there is nothing at {request.url.path}; /docs lists what there is"
    return _answer(HTTPStatus(error.status_code), detail, headers=error.headers)


async def _on_defect(request: Request, error: Exception) -> Response:
    status, path = int(HTTPStatus.INTERNAL_SERVER_ERROR), request.url.path
    _log.error("request_failed", path=path, status=status, exc_info=error, outcome="failure")
    return _answer(HTTPStatus.INTERNAL_SERVER_ERROR, "a defect of Penstock; its log has the traceback")


def _answer(
    status: HTTPStatus,
    detail: str,
    errors: Sequence[FieldProblem] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    problem = Problem(title=status.phrase, status=status, detail=detail, errors=tuple(errors))
    return Response(problem.model_dump_json(), status, headers=headers, media_type=MEDIA_TYPE)


def _causes(error: RequestValidationError) -> Sequence[Mapping[str, Any]]:
    """The errors without those that only follow: a list whose items are wrong counts as too short as well."""
    found = error.errors()
    return [
        one
        for one in found
        if one["type"] != "too_short" or not any(_lies_in(other["loc"], one["loc"]) for other in found)
    ]


def _lies_in(location: Sequence[Any], outer: Sequence[Any]) -> bool:
    return len(location) > len(outer) and tuple(location[: len(outer)]) == tuple(outer)


def _field(location: Sequence[str | int]) -> str:
    parts = location[1:] if location and location[0] in _WHERE else location
    return ".".join(str(part) for part in parts if not str(part).startswith("("))  # a way of writing, no field


def _reason(found: Mapping[str, Any]) -> str:
    return str(found["msg"]).removeprefix("Value error, ")
