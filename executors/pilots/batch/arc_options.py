"""What a site queue may say of an ARC compute element."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from executors.pilots.batch.queue_options import read_options
from executors.pilots.port import QueueSettings
from pipeline.errors import BadSettings

Word = Annotated[str, StringConstraints(min_length=1, pattern=r"^[^\x00-\x20]+$")]
Command = str | list[str]
"""A line, or a list of words; credentials.py says more."""


class ArcOptions(BaseModel):
    """`options` of a site queue whose batch system is `arc`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: Annotated[str, StringConstraints(pattern=r"^https://[^\s/?#]+(/[^\s?#]*)?$")]
    """The element's web services, such as https://ce.example.org/arex."""
    queue: Word | None = None
    """A queue of its batch system; none: its default."""
    token_file: str | None = None
    token_command: Command | None = None
    proxy_file: str | None = None
    """X.509 proxy, or user certificate, with its key and chain, in PEM."""
    proxy_command: Command | None = None
    ca_dir: str | None = None
    """Folder with the certificates of authorities, by hash, as on grid nodes. Neither this nor `ca_file`: the
    system's own authorities."""
    ca_file: str | None = None
    delegate: bool = False
    """Whether pilots get a proxy delegated from ours, which then bounds their lifetime."""
    runtime_environments: tuple[Word, ...] = ()
    """Runtime environments of the element that pilots need, such as ENV/SINGULARITY."""
    timeout: Annotated[float, Field(gt=0, le=300)] = 30.0
    """Seconds that the server may take for each answer."""

    @model_validator(mode="after")
    def _delegates_a_proxy(self) -> ArcOptions:
        if self.delegate and self.proxy_file is None and self.proxy_command is None:
            raise ValueError("delegate needs proxy_file or proxy_command: a token can't be delegated")
        return self

    @classmethod
    def of(cls, queue: QueueSettings) -> ArcOptions:
        """Those of a queue. Raises BadSettings."""
        if queue.entry.nodes > 1:
            raise BadSettings(
                f"queue {queue.label}: an ARC job starts one pilot, on its first node alone: nodes must be 1"
            )
        return read_options(queue, cls)
