"""A trigger that sticks: from the moment on at which there is the file that `STICKS` names, its turn never ends."""

from __future__ import annotations

import os
import threading
from datetime import datetime
from pathlib import Path

from pipeline.trigger import Trigger
from schemas.messages import Body, Tick

STICKS = "OUTSIDE_STICKS"


def _body(scheduled_for: datetime) -> Body:
    name = os.environ.get(STICKS)
    if name and Path(name).exists():
        threading.Event().wait()
    return Tick(name="sticking", scheduled_for=scheduled_for)


SCHEDULE = (Trigger("sticking", "0 0 29 2 *", _body, grace=0.001),)
