"""The rule that compares what a job wants with what a slot has, in the same words.

It has two parts, since matching compares millions of times: `static_misfits` is all that neither room nor time changes
(computed once for a kind of node and a requirement), `grant` is the rest, a few comparisons of numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from schemas.names import Name, Names
from schemas.resources import Resource
from schemas.rooms import Grant, Room
from schemas.specifications import Needs, Requirement, Specification
from schemas.versions import numbers

__all__ = [
    "Fit",
    "Name",
    "Names",
    "Requirement",
    "Resource",
    "Specification",
    "fits",
    "grant",
    "room_of",
    "static_misfits",
    "suits",
]


@dataclass(frozen=True, slots=True)
class Fit:
    """Whether a resource can run a job (true when it can), by which alternative, or else what is missing."""

    alternative: int | None
    """Index in `requirement.specifications()`; the one that comes closest when none fits."""
    reasons: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return not self.reasons


def fits(requirement: Requirement, resource: Resource) -> Fit:
    """Whether `resource`, empty, can run `requirement`: by the first alternative that fits."""
    closest: Fit | None = None
    for index, specification in enumerate(requirement.specifications()):
        reasons = (*static_misfits(specification, resource), *_late(specification.needs, resource))
        if not reasons:
            return Fit(index)
        if requirement.any_of:
            reasons = tuple(f"any_of[{index}] {reason}" for reason in reasons)
        if closest is None or len(reasons) < len(closest.reasons):
            closest = Fit(index, reasons)
    assert closest is not None  # a requirement has one specification at the least
    return closest


def room_of(resource: Resource) -> Room:
    """All of it, nothing taken."""
    return Room(resource.cores, resource.memory, resource.disk, resource.gpus)


def grant(specification: Specification, room: Room, time_left: float, power: float | None) -> Grant | None:
    """What a job gets of `room` with `time_left` seconds to go: as many cores and GPUs as it wants and are free.

    None when that is too little. `power` is HS23 per core. Exact about room and time; of all else, such as tags, it
    knows nothing: see `static_misfits`.
    """
    needs = specification.needs
    cores = min(needs.max_cores, room.cores)
    if needs.per_core and needs.overhead + needs.per_core * cores > room.memory:
        cores = (room.memory - needs.overhead) // needs.per_core
    memory = needs.overhead + needs.per_core * cores
    gpus = min(needs.max_gpus, room.gpus)
    if (
        cores < needs.min_cores
        or memory > room.memory
        or needs.disk > room.disk
        or gpus < needs.min_gpus
        or needs.wall_time > time_left
    ):
        return None
    if needs.cpu_work is None:
        return Grant(cores, memory, needs.disk, gpus, needs.wall_time)
    if power is None:
        return None
    seconds = needs.cpu_work / (power * cores)
    return Grant(cores, memory, needs.disk, gpus, seconds) if seconds <= needs.wall_time else None


def static_misfits(specification: Specification, resource: Resource) -> tuple[str, ...]:
    """Every reason why no free room and no time would make `resource` fit; empty when there is none."""
    return tuple(_static_misfits(specification, resource))


def suits(specification: Specification, resource: Resource) -> bool:
    """Whether there are no `static_misfits`, found out sooner."""
    sites = specification.sites  # these two tell most jobs and nodes apart
    if (sites and resource.site not in sites) or not specification.tag_expression.holds(resource.tag_set):
        return False
    return next(_static_misfits(specification, resource), None) is None


def _static_misfits(wanted: Specification, resource: Resource) -> Iterator[str]:
    yield from _too_small(wanted.needs, resource)
    if not wanted.tag_expression.holds(resource.tag_set):
        yield from wanted.tag_expression.reasons(resource.tag_set)
    if wanted.sites and resource.site not in wanted.sites:
        yield f"{resource.site} is not among the job's sites"
    if resource.site in wanted.banned_sites:
        yield f"{resource.site} is banned by the job"
    yield from _wrong_system(wanted, resource)
    yield from _wrong_processor(wanted, resource)
    if wanted.gpu is not None:
        yield from _wrong_gpu(wanted, resource)
    yield from _least("scratch rate", wanted.io.scratch, resource.io.scratch, " MB/s")
    yield from _least("LAN rate", wanted.io.lan, resource.io.lan, " MB/s")
    if wanted.containers and set(wanted.containers).isdisjoint(resource.containers):
        yield _no_container(wanted.containers, resource.containers)


def _too_small(needs: Needs, resource: Resource) -> Iterator[str]:
    yield from _least("cores", needs.min_cores, resource.cores)
    yield from _least("memory", needs.memory(needs.min_cores), resource.memory, " MiB")
    yield from _least("disk", needs.disk, resource.disk, " MiB")
    if needs.cpu_work is None:
        return
    if resource.power is None:
        yield "does not say its power, which cpu_work needs"
        return
    cores = min(needs.max_cores, resource.cores)
    if needs.per_core:
        cores = min(cores, (resource.memory - needs.overhead) // needs.per_core)
    if cores >= needs.min_cores and needs.cpu_work / (resource.power * cores) > needs.wall_time:
        seconds = needs.cpu_work / (resource.power * cores)
        yield f"would need {seconds:.0f} s for cpu_work {needs.cpu_work:g}, wants wall_time {needs.wall_time} s"


def _late(needs: Needs, resource: Resource) -> Iterator[str]:
    yield from _least("wall_time", needs.wall_time, resource.wall_time, " s")


def _wrong_system(wanted: Specification, resource: Resource) -> Iterator[str]:
    wish, system = wanted.system, resource.system
    yield from _same("system", wish.name, system.name)
    yield from _least_version("glibc", wish.glibc, system.glibc)
    if wish.user_namespaces and not system.user_namespaces:
        yield (
            "does not say whether it has user namespaces" if system.user_namespaces is None else "lacks user namespaces"
        )


def _wrong_processor(wanted: Specification, resource: Resource) -> Iterator[str]:
    wish, processor = wanted.architecture, resource.architecture
    yield from _same("architecture", wish.name, processor.name)
    if wish.level is not None:
        yield from _least("microarchitecture level", wish.level.min, processor.level)
        if wish.level.max is not None and processor.level is None and wish.level.min is None:
            yield "does not say its microarchitecture level"
        if wish.level.max is not None and processor.level is not None and processor.level > wish.level.max:
            yield f"wants microarchitecture level {wish.level.max} at most, has {processor.level}"


def _wrong_gpu(wanted: Specification, resource: Resource) -> Iterator[str]:
    wish, gpu = wanted.gpu, resource.gpu
    if wish is None:
        return
    if gpu is None:
        yield "has no GPU"
        return
    yield from _least("GPUs", wanted.needs.min_gpus, gpu.count)
    yield from _least("GPU memory", wish.memory, gpu.memory, " MiB")
    yield from _same("GPU vendor", wish.vendor, gpu.vendor)
    yield from _least_version("GPU driver", wish.driver, gpu.driver)
    capability = wish.compute_capability
    if capability is None:
        return
    if gpu.compute_capability is None:
        yield "does not say its compute capability"
        return
    yield from _least_version("compute capability", capability.min, gpu.compute_capability)
    if capability.max is not None and numbers(gpu.compute_capability) > numbers(capability.max):
        yield f"wants compute capability {capability.max} at most, has {gpu.compute_capability}"


def _no_container(wanted: Names, has: Names) -> str:
    if not has:
        return "has no container runtime"
    return f"wants containers by {' or '.join(wanted)}, has {', '.join(has)}"


def _least(word: str, wanted: float | None, has: float | None, unit: str = "") -> Iterator[str]:
    if wanted is None:
        return
    if has is None:
        yield f"does not say its {word}"
    elif wanted > has:
        yield f"wants {word} {wanted}{unit}, has {has}{unit}"


def _least_version(word: str, wanted: str | None, has: str | None) -> Iterator[str]:
    if wanted is None:
        return
    if has is None:
        yield f"does not say its {word}"
    elif numbers(wanted) > numbers(has):
        yield f"wants {word} {wanted}, has {has}"


def _same(word: str, wanted: str | None, has: str | None) -> Iterator[str]:
    if wanted is None or wanted == has:
        return
    yield f"does not say its {word}" if has is None else f"wants {word} {wanted}, has {has}"
