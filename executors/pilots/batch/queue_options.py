"""The options of a site queue, read as its batch system declares them."""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from executors.pilots.port import QueueSettings
from pipeline.errors import BadSettings

Options = TypeVar("Options", bound=BaseModel)


def read_options(queue: QueueSettings, declared: type[Options], *, without: Collection[str] = ()) -> Options:
    """What the queue says, `without` those that are read elsewhere. Raises BadSettings, which names what is wrong."""
    given = {name: value for name, value in queue.entry.options.items() if name not in without}
    try:
        return declared.model_validate(given)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        kind = queue.entry.batch_system
        raise BadSettings(f"queue {queue.label}: options of the batch system {kind}: {wrong}") from error
