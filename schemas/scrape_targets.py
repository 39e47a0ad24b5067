"""Where Prometheus finds the processes: the words of its HTTP service discovery."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class TargetLabels(BaseModel):
    """What is known of a target before it is scraped; Prometheus forgets them unless they are relabelled."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    kind: str = Field(alias="__meta_penstock_kind")
    queues: str = Field(alias="__meta_penstock_queues", description="with commas between and around them")
    version: str = Field(alias="__meta_penstock_version")
    instance: str = Field(alias="__meta_penstock_instance")
    scheme: str = Field(alias="__scheme__")


class TargetGroup(BaseModel):
    """Processes to scrape, and what they have in common."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    targets: tuple[str, ...] = Field(description="host and port")
    labels: TargetLabels
