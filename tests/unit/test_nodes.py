"""What a slot has: measured over declared, and never more than its pilot offers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.nodes import NodeKind, node_kind, slot_resource
from schemas.pilots import Node
from schemas.resources import Architecture, Gpus, Rates, System
from schemas.rooms import Room
from schemas.sites import SiteQueueEntry

TOTALS = Room(cores=8, memory=16_000, disk=50_000)
DECLARED = SiteQueueEntry(
    name="q",
    wall_time=7200,
    tags=("os:el9",),
    system=System(name="linux", glibc="2.17"),
    architecture=Architecture(name="x86_64", level=2),
    gpu=Gpus(count=4, memory=16_000, vendor="nvidia", driver="470.1"),
    power=12.5,
    io=Rates(scratch=200),
)


def node(**details: Any) -> NodeKind:
    said = {"host": "n", "cores": 8, "memory": 1, "disk": 1, "glibc": "2.34", "details": details}
    return node_kind(Node.model_validate(said))


def test_what_was_measured_wins_over_what_is_declared() -> None:
    resource = slot_resource("CERN", DECLARED, node(user_namespaces=False, machine="x86_64", level=4), TOTALS)
    assert resource.system == System(name="linux", glibc="2.34", user_namespaces=False)
    assert resource.architecture == Architecture(name="x86_64", level=4)
    assert (resource.power, resource.io.scratch, resource.tags) == (12.5, 200, ("os:el9",))
    assert (resource.cores, resource.memory, resource.disk, resource.wall_time) == (8, 16_000, 50_000, 7200)


def test_a_slot_has_the_gpus_that_its_pilot_offers() -> None:
    measured = node(gpu={"count": 8, "memory": 40_536, "vendor": "nvidia", "compute_capability": "8.0"})
    with_two = Room(cores=8, memory=16_000, disk=50_000, gpus=2)
    wanted = Gpus(count=2, memory=40_536, vendor="nvidia", compute_capability="8.0", driver="470.1")
    assert slot_resource("CERN", DECLARED, measured, with_two).gpu == wanted
    assert slot_resource("CERN", DECLARED, measured, TOTALS).gpu is None
    assert slot_resource("CERN", DECLARED, None, TOTALS).gpu is None


def test_what_is_declared_of_another_make_is_not_said_of_what_was_measured() -> None:
    """Else a job for NVIDIA's capability 8.0 would be given AMD's GPUs, and one for a level an ARM processor."""
    entry = DECLARED.model_copy(update={"gpu": Gpus(vendor="nvidia", compute_capability="8.0", memory=16_000)})
    measured = node(system_name="FreeBSD", machine="aarch64", gpu={"count": 1, "vendor": "amd", "memory": 65_000})
    measured = measured.model_copy(update={"system": System(name="freebsd")})
    resource = slot_resource("CERN", entry, measured, Room(cores=8, memory=1, disk=1, gpus=1))
    assert resource.gpu == Gpus(count=1, vendor="amd", memory=65_000)
    assert resource.architecture == Architecture(name="aarch64")
    assert resource.system == System(name="freebsd")


def test_of_a_pilot_that_says_nothing_the_declaration_holds() -> None:
    resource = slot_resource("CERN", DECLARED, None, TOTALS)
    assert (resource.system, resource.architecture) == (DECLARED.system, DECLARED.architecture)
    old = node_kind(Node(host="n", cores=1, memory=1, disk=1, system="AlmaLinux 9", glibc="2.34"))
    assert old == NodeKind(system=System(glibc="2.34"))


@pytest.mark.parametrize("totals", [Room(0, 0, 0), Room(-4, -1, -1, -1)])
def test_a_slot_without_room_is_a_resource_all_the_same(totals: Room) -> None:
    assert slot_resource("CERN", DECLARED, None, totals).disk == 0


def test_equal_slots_have_equal_signatures() -> None:
    first = slot_resource("CERN", DECLARED, node(machine="amd64"), TOTALS)
    assert first.signature() == slot_resource("CERN", DECLARED, node(machine="x86_64"), TOTALS).signature()
    assert first.signature() != slot_resource("CERN", DECLARED, node(machine="arm64"), TOTALS).signature()


words = st.one_of(st.text(max_size=100), st.from_regex(r"\d{1,12}(\.\d{1,8}){0,9}", fullmatch=True))
nonsense = st.fixed_dictionaries(
    {},
    optional={
        "system_name": words,
        "machine": words,
        "level": st.one_of(st.none(), st.integers(1, 99)),
        "user_namespaces": st.one_of(st.none(), st.booleans()),
        "gpu": st.fixed_dictionaries(
            {"count": st.integers(1, 100)},
            optional={
                "vendor": words,
                "compute_capability": words,
                "driver": words,
                "memory": st.integers(0, 1_000_000),
            },
        ),
    },
)


@given(details=nonsense, glibc=words)
def test_no_words_of_a_pilot_keep_it_out(details: dict[str, Any], glibc: str) -> None:
    said = {"host": "n", "cores": 1, "memory": 1, "disk": 1, "glibc": glibc, "details": details}
    kind = node_kind(Node.model_validate(said))
    assert NodeKind.model_validate_json(kind.body()) == kind
    assert slot_resource("CERN", DECLARED, kind, TOTALS).cores == 8
