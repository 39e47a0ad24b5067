"""What log shippers get, and what a terminal shows."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from importlib.metadata import version

PROGRAM = """
import logging, structlog
from pipeline.logs import name_node
from structlog.contextvars import bind_contextvars
from pipeline.logs import configure_logging
from pipeline.settings import Settings
configure_logging(Settings(log_level="info"), "consumer")
name_node("consumer-1")
bind_contextvars(queue="matching", message_id="7f")
log = structlog.get_logger("runtime")
log.debug("unheard")
log.info("job_matched", job_id=7, trace="00-" + "a" * 32 + "-" + "b" * 16 + "-01", sites=["one"], duration=0.25)
logging.getLogger("some.library").warning("it is %s", "late")
try:
    raise LookupError("nowhere")
except LookupError:
    log.exception("executor_failed")
"""


def test_lines_on_a_pipe_are_json_under_ecs_names() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60)
    matched, late, failed = (json.loads(line) for line in done.stderr.splitlines())
    assert matched.pop("@timestamp").endswith("Z")
    assert isinstance(matched.pop("process.pid"), int)
    assert matched == {
        "log.level": "info",
        "message": "job_matched",
        "event.action": "job_matched",
        "service.name": "penstock-consumer",
        "service.version": version("penstock"),
        "service.node.name": "consumer-1",
        "host.name": socket.gethostname(),
        "event.duration": 250_000_000,
        "log.logger": "runtime",
        "ecs.version": "8.11",
        "trace.id": "a" * 32,
        "transaction.id": "7f",
        "labels": {"queue": "matching", "message_id": "7f", "job_id": 7, "sites": ["one"]},
    }
    assert (late["message"], late["log.level"], late["log.logger"]) == ("it is late", "warning", "some.library")
    assert "LookupError: nowhere" in failed["error.stack_trace"]
    assert (failed["error.type"], failed["error.message"]) == ("LookupError", "nowhere")
    assert done.stdout == ""
