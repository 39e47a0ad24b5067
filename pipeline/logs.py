"""Logging: structlog and the standard library's loggers as one stream on stderr.

Colours on a terminal; elsewhere one JSON object a line under ECS names (`@timestamp`, `log.level`,
`message`, `event.action`, `service.name`, `labels`), so that log shippers need no parser. `log_fields` has them all.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from importlib.metadata import version
from typing import Any

import structlog
from structlog.types import EventDict, Processor, WrappedLogger

from pipeline.log_fields import NAMED
from pipeline.settings import Settings

_ECS_VERSION = "8.11"
_QUIET = ("sqlalchemy", "alembic", "rq", "httpx", "httpcore", "urllib3", "asyncio")
"""Libraries whose chatter below warnings tells an operator nothing."""

_LEFT_BY_FORMATTERS = frozenset({"message", "asctime", "color_message"})
"""What other handlers' formatters leave on a record, or have put there for themselves."""

_log = structlog.get_logger("cli")


class _Node:
    """This process."""

    name: str | None = None
    """The instance's id, once it has one."""


def name_node(instance: str) -> None:
    """Let every further line of this process say which instance it is (`service.node.name`)."""
    _Node.name = instance


def configure_logging(settings: Settings, kind: str) -> None:
    """Set this process's logging up; `kind` names it (`service.name` becomes penstock-KIND). May be called again."""
    terminal = sys.stderr.isatty()
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_rendering(terminal, kind)],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def log_refusal(settings: Settings | None, kind: str, error: Exception, why: str, *, traceback: bool) -> None:
    """Log that a process does not start, and why, as `configure_logging` would have it; `settings`: None where it is
    they that are wrong."""
    configure_logging(settings or Settings.model_construct(), kind)
    _log.error("process_refused", error=why, error_type=type(error).__name__, exc_info=error if traceback else None)


def _rendering(terminal: bool, kind: str) -> list[Processor]:
    if terminal:
        return [structlog.dev.ConsoleRenderer(colors=True)]
    return [
        _note_error,
        structlog.processors.format_exc_info,
        _Ecs(kind),
        structlog.processors.JSONRenderer(default=str),
    ]


def _note_error(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """The exception's type and message, beside its traceback."""
    del logger, method
    found = event.get("exc_info")
    error = sys.exc_info()[1] if found is True else found[1] if isinstance(found, tuple) else found
    if isinstance(error, BaseException):
        event["error_type"] = type(error).__name__
        event.setdefault("error", str(error))
    return event


class _Ecs:
    """Renames what structlog collected to ECS; everything that ECS has no name for becomes a label."""

    def __init__(self, kind: str) -> None:
        self._service = f"penstock-{kind}"
        self._version = version("penstock")
        self._host = socket.gethostname()

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        del logger, method
        fields = {name: value for name, value in event.items() if name not in _LEFT_BY_FORMATTERS}
        said = str(fields.pop("event", ""))
        line: dict[str, Any] = {
            "@timestamp": fields.pop("timestamp", None),
            "log.level": fields.pop("level", "info"),
            "message": said,
            "event.action": said if said.isidentifier() else None,
            "service.name": self._service,
            "service.version": self._version,
            "service.node.name": _Node.name,
            "host.name": self._host,
            "process.pid": os.getpid(),
        }
        line |= {field: fields.pop(name) for name, field in NAMED.items() if name in fields}
        line["trace.id"] = _trace_id(fields.pop("trace", None))
        line["transaction.id"] = fields.get("message_id")
        if (seconds := fields.pop("duration", None)) is not None:
            line["event.duration"] = round(seconds * 1e9)
        line["ecs.version"] = _ECS_VERSION
        line["labels"] = {name: _plain(value) for name, value in fields.items() if value is not None}
        return {name: value for name, value in line.items() if value is not None}


def _trace_id(trace: Any) -> str | None:
    """The trace's id in a W3C traceparent."""
    parts = str(trace).split("-")
    return parts[1] if len(parts) == 4 else None


def _plain(value: Any) -> str | int | float | bool | list[Any]:
    """ECS labels are scalars, or several of them."""
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value if isinstance(value, str | int | float | bool) else str(value)
