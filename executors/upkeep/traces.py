"""Traces of jobs that have ended are sent, where there is a place to send them to."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from functools import partial

from structlog import get_logger

from pipeline.errors import BadSettings, TracesUnavailable
from pipeline.runtime.spec import Context
from pipeline.store import traces
from pipeline.store.database import Database
from pipeline.store.traces import Ends
from pipeline.traces.life import spans_of
from pipeline.traces.port import Exporter, open_exporter
from schemas.messages import Message

AT_A_TIME = 100
"""Jobs whose spans go in one request: some hundred kilobytes."""
OLDEST = 3_600.0
"""Seconds after which an end is given up: several of those who take traces refuse what is older than an hour."""
PATIENCE = 5.0
"""Seconds after which the rest is left to the next tick."""

_log = get_logger("upkeep")


def send(context: Context) -> list[Message]:
    """Send what has ended since the last tick; nobody needs a message."""
    settings, database = context.settings, context.database
    if not settings.traces_url or not database.read(traces.may_try):
        return []
    until = time.monotonic() + PATIENCE
    try:
        with closing(open_exporter(settings.traces_url)) as exporter:
            find = partial(traces.next_ends, share=settings.traces_share, oldest=OLDEST)
            while time.monotonic() < until and (ends := database.transact(find)) is not None:
                if not _tell(database, exporter, ends, until):
                    break
    except (BadSettings, TracesUnavailable) as error:
        wait = database.transact(traces.note_failure)
        _log.warning("traces_not_sent", error=str(error), again_in=wait)
    return []


def _tell(database: Database, exporter: Exporter, ends: Ends, until: float) -> bool:
    """Send them in parts, and note each; whether the next range may follow."""
    begin = ends.begin
    if ends.given_up:
        begin = ends.found[0][0] - 1 if ends.found else ends.last
        if not database.transact(partial(traces.advance, begin=ends.begin, to=begin)):
            return False
        _log.warning("traces_given_up", jobs=ends.given_up, oldest=OLDEST)
    for start in range(0, len(ends.found), AT_A_TIME):
        part = ends.found[start : start + AT_A_TIME]
        _send(database, exporter, part)
        if not database.transact(partial(traces.advance, begin=begin, to=part[-1][0])):
            return False  # another tick is at it
        begin = part[-1][0]
        if time.monotonic() > until:
            return False
    return begin == ends.last or database.transact(partial(traces.advance, begin=begin, to=ends.last))


def _send(database: Database, exporter: Exporter, part: Sequence[tuple[int, int]]) -> None:
    spans = [span for story in database.read(partial(traces.stories, ends=part)) for span in spans_of(story)]
    if spans:
        exporter.send(spans)
        if database.read(traces.has_failed):
            database.transact(traces.note_success)
