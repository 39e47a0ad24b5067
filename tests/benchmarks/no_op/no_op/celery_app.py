"""Celery's: acknowledged when done, results ignored, all else as it comes."""

from __future__ import annotations

import os

from celery import Celery

app = Celery("no_op", broker=os.environ["NO_OP_BROKER"])
app.conf.update(task_acks_late=True, task_ignore_result=True, broker_connection_retry_on_startup=True)


def _pass_over(ids: list[int]) -> None:
    """Nothing is to be done about these."""


pass_over = app.task(name="pass_over")(_pass_over)
