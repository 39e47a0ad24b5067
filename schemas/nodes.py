"""What one slot has: what its node was found to be like, what its site queue declares, and what its pilot offers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ValidationError

from schemas.campaign import Model
from schemas.names import Names
from schemas.pilots import Node
from schemas.resources import Architecture, Gpus, Resource, System
from schemas.rooms import Room
from schemas.sites import SiteQueueEntry

_MOST_CONTAINERS = 4
"""Runtimes that are remembered of a node: there are no more in the world that matter, and their names fit."""
Said = TypeVar("Said", bound=BaseModel)


class NodeKind(Model):
    """What a pilot found its node to be like, apart from totals: the same for all nodes of a kind."""

    system: System = System()
    architecture: Architecture = Architecture()
    gpu: Gpus | None = None
    containers: Names = ()

    def body(self) -> str:
        """As it is stored, but for the containers: release 0.3.0 must be able to read it, and knows none."""
        return self.model_dump_json(exclude_defaults=True, exclude={"containers"})

    @classmethod
    def stored(cls, body: str, containers: str | None) -> Self:
        """As it was stored: `containers` are names with commas between them."""
        kind = cls.model_validate_json(body)
        return kind.model_copy(update={"containers": tuple(containers.split(","))}) if containers else kind

    def signature(self) -> str:
        """A hash that equal kinds share."""
        return hashlib.sha256("\n".join((self.body(), *self.containers)).encode()).hexdigest()


def node_kind(node: Node) -> NodeKind:
    """The kind of a node by what its pilot says; a word of it that makes no sense counts as not said."""
    said = node.details
    if said is None:  # its pilot is of release 0.2.0
        return NodeKind(system=_sensible(System, {"glibc": node.glibc}))
    system = {"name": said.system_name, "glibc": node.glibc, "user_namespaces": said.user_namespaces}
    gpu = said.gpu
    return NodeKind(
        system=_sensible(System, system),
        architecture=_sensible(Architecture, {"name": said.machine, "level": said.level}),
        gpu=None if gpu is None else _sensible(Gpus, gpu.model_dump(exclude={"count"})),
        containers=tuple(sorted(set(said.containers)))[:_MOST_CONTAINERS],
    )


def slot_resource(site: str, entry: SiteQueueEntry, node: NodeKind | None, totals: Room) -> Resource:
    """The resource of a slot: the declared entry, overruled by what was measured, with all that the pilot offers.

    `wall_time` is the entry's, so that equal slots have equal resources: the time that is left is no part of it.
    `node` is None for a pilot of which nothing is known. A slot has as many GPUs as its pilot offers, whatever is
    declared: it could give a job no others. Nor could it run images by runtimes that it did not find itself.
    """
    measured = node or NodeKind()
    return Resource(
        site=site,
        cores=max(totals.cores, 1),
        memory=max(totals.memory, 1),
        disk=max(totals.disk, 0),
        wall_time=entry.wall_time,
        system=_overruled(entry.system, measured.system, "name"),
        architecture=_overruled(entry.architecture, measured.architecture, "name"),
        gpu=_gpus(entry.gpu, measured.gpu, totals.gpus),
        power=entry.power,
        io=entry.io,
        tags=entry.tags,
        containers=measured.containers,
    )


def _gpus(declared: Gpus | None, measured: Gpus | None, count: int) -> Gpus | None:
    if count < 1:
        return None
    gpu = _overruled(declared or Gpus(), measured or Gpus(), "vendor")
    return gpu.model_copy(update={"count": count})


def _overruled(declared: Said, measured: Said, make: str) -> Said:
    """What was measured; the rest as it is declared, unless that is said of something of another `make`."""
    if getattr(measured, make) is not None and getattr(declared, make) not in {None, getattr(measured, make)}:
        return measured
    known = {name: value for name in type(measured).model_fields if (value := getattr(measured, name)) is not None}
    return declared.model_copy(update=known)


def _sensible(model: type[Said], said: Mapping[str, Any]) -> Said:
    known = {name: value for name, value in said.items() if value is not None and value != ""}
    try:
        return model.model_validate(known)
    except ValidationError as error:
        wrong = {detail["loc"][0] for detail in error.errors() if detail["loc"]} or set(known)
        return model.model_validate({name: value for name, value in known.items() if name not in wrong})
