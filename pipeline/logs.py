"""Logging: structlog and the standard library's loggers as one stream on stderr.

Colours on a terminal; elsewhere one JSON object a line under ECS names (`@timestamp`, `log.level`,
`message`, `event.action`, `service.name`, `labels`), so that log shippers need no parser.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog
from structlog.types import EventDict, Processor, WrappedLogger

from pipeline.settings import Settings

_ECS_VERSION = "8.11"
_QUIET = ("sqlalchemy", "alembic", "rq", "httpx", "httpcore", "urllib3", "asyncio")
"""Libraries whose chatter below warnings tells an operator nothing."""

_LEFT_BY_FORMATTERS = frozenset({"message", "asctime"})
"""What other handlers' formatters leave on a record."""


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


def _rendering(terminal: bool, kind: str) -> list[Processor]:
    if terminal:
        return [structlog.dev.ConsoleRenderer(colors=True)]
    return [structlog.processors.format_exc_info, _Ecs(kind), structlog.processors.JSONRenderer(default=str)]


class _Ecs:
    """Renames what structlog collected to ECS; everything that ECS has no name for becomes a label."""

    def __init__(self, kind: str) -> None:
        self._service = f"penstock-{kind}"

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
            "log.logger": fields.pop("logger", None),
            "ecs.version": _ECS_VERSION,
        }
        if "exception" in fields:
            line["error.stack_trace"] = fields.pop("exception")
        if "trace" in fields:
            line["trace.id"] = _trace_id(fields.pop("trace"))
        line["labels"] = {name: _scalar(value) for name, value in fields.items() if value is not None}
        return {name: value for name, value in line.items() if value is not None}


def _trace_id(trace: Any) -> str | None:
    """The trace's id in a W3C traceparent."""
    parts = str(trace).split("-")
    return parts[1] if len(parts) == 4 else None


def _scalar(value: Any) -> str | int | float | bool:
    """ECS labels are scalars."""
    return value if isinstance(value, str | int | float | bool) else str(value)
