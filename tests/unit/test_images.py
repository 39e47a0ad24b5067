"""Jobs that name an image: what may be named, which nodes may run them, and what older releases see of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.cli.jobfile import first_complaint
from pipeline.pilot import node as pilot_node
from pipeline.pilot.gpus import Gpus
from schemas.campaign import Campaign, Step
from schemas.nodes import NodeKind, node_kind, slot_resource
from schemas.pilots import Node
from schemas.placement import queue_offer, unplaceable
from schemas.requirements import Requirement, Resource, fits
from schemas.resources import System
from schemas.rooms import Room
from schemas.sites import SiteQueueEntry

WHOLE = Room(8, 16_000, 50_000)
OF_0_3_0 = '{"name":"s","command":["true"],"parameters":null,"environment":{},"sandbox":[],"inputs":[],"outputs":[],'
OF_0_3_0 += '"archive":[],"storage":null,"verify":"all","requirements":{"cores":1,"memory":1024,"disk":1024,'
OF_0_3_0 += '"wall_time":3600,"tags":[],"sites":[],"banned_sites":[]},"priority":0,"retries":{"infrastructure":3,'
OF_0_3_0 += '"payload":1},"after":[],"min_success":1.0,"job_type":"user"}'


def step(**words: Any) -> Step:
    return Step.model_validate({"name": "s", "command": ["true"], **words})


def node(*containers: str) -> Resource:
    return Resource(site="A", cores=8, memory=16_000, disk=50_000, wall_time=86_400, containers=containers)


@pytest.mark.parametrize(
    "image",
    [
        "/cvmfs/unpacked.cern.ch/registry.hub.docker.com/library/almalinux:9",
        "/data/images/el9.sif",
        "docker://docker.io/library/almalinux:9",
        "docker://registry.example.org:5000/group/name@sha256:0123",
        "oci-archive:/data/with a space/image.tar",
        "docker-archive:/data/image.tar",
    ],
)
def test_an_image_implies_that_the_node_has_a_container_runtime(image: str) -> None:
    wanted = step(image=image).requirements
    assert fits(wanted, node("apptainer"))
    assert fits(wanted, node("podman")).reasons == (
        ("wants containers by apptainer or singularity, has podman",) if image.endswith(".sif") else ()
    )
    assert fits(wanted, node()).reasons == ("has no container runtime",)
    assert step().requirements == Requirement()


@pytest.mark.parametrize(
    "image",
    ["", "almalinux:9", "relative/path", "/folder/", "docker://", "docker://-x", "http://x/y", "/a\nb", "sif:/x"],
)
def test_what_is_no_image_is_refused(image: str) -> None:
    with pytest.raises(ValidationError):
        step(image=image)


def test_no_alternative_gets_around_it() -> None:
    wanted = step(image="/i", requirements={"cores": 4, "any_of": [{"cores": 2}, {"containers": []}]}).requirements
    assert [one.containers for one in wanted.specifications()] == [("apptainer", "podman", "singularity")] * 2
    assert not fits(wanted, node())


def test_a_job_may_want_a_runtime_for_itself() -> None:
    wanted = Requirement.model_validate({"containers": ["podman"]})
    assert fits(wanted, node("apptainer")).reasons == ("wants containers by podman, has apptainer",)
    assert fits(wanted, node("apptainer", "podman"))


def test_no_site_queue_without_a_declared_runtime_gets_such_jobs() -> None:
    wanted = step(image="/i").requirements
    plain = SiteQueueEntry(name="q")
    offers = [queue_offer("A", plain, margin=0)]
    assert unplaceable(wanted, offers, "user") == "no site can run it: A/q has no container runtime"
    offers += [queue_offer("B", plain.model_copy(update={"containers": ("apptainer",)}), margin=0)]
    assert unplaceable(wanted, offers, "user") is None


def test_only_a_pilot_that_says_so_can_run_images() -> None:
    entry = SiteQueueEntry(name="q", containers=("podman",))
    described = pilot_node.describe("n", pilot_node.Totals(1, 1, 1), Gpus(), ["podman"])
    said = node_kind(Node.model_validate(described))
    assert slot_resource("A", entry, said, WHOLE).containers == ("podman",)
    of_0_3_0 = pilot_node.in_older_words(described)
    assert of_0_3_0 is not None
    assert of_0_3_0["containers"] == ["podman"]
    kind = node_kind(Node.model_validate(of_0_3_0))
    assert (kind.containers, kind.system) == ((), said.system)
    assert slot_resource("A", entry, kind, WHOLE).containers == ()
    assert slot_resource("A", entry, None, WHOLE).containers == ()
    of_0_2_0 = pilot_node.in_older_words(of_0_3_0)
    assert of_0_2_0 is not None
    assert "details" not in of_0_2_0
    assert pilot_node.in_older_words(of_0_2_0) is None


def test_what_0_3_0_stored_or_could_have_stored_is_the_same_to_both() -> None:
    assert step().model_dump_json() == OF_0_3_0
    assert Step.model_validate_json(OF_0_3_0) == step()
    assert Requirement().signature() == "12e3c08864e3eb6969e45faa8454fb32888ec40df37d1006f8d287e43809f372"
    kind = NodeKind(system=System(name="linux", glibc="2.34"))
    assert kind.signature() == "760a369826301957ddf0e16336d926cd83c75c29d9c8ba5a886aa225be59e452"
    able = kind.model_copy(update={"containers": ("apptainer", "podman")})
    assert able.body() == kind.body()
    assert able.signature() != kind.signature()
    assert NodeKind.stored(able.body(), "apptainer,podman") == able
    assert NodeKind.stored(kind.body(), None) == kind
    bare = Resource(site="A", cores=1, memory=1, disk=1, wall_time=5, tags=("b", "a"))
    assert bare.signature() == "8ca6ec1b811cd5df8a40019f50e33db0d1c4cd1c98b481135e3f1c4899724c32"


def test_image_and_stop_are_stored_when_they_are_said() -> None:
    said = step(image="/i", stop={"signal": "SIGUSR1", "grace": 120})
    stored = json.loads(said.model_dump_json())
    assert (stored["image"], stored["stop"]) == ("/i", {"signal": "SIGUSR1", "grace": 120})
    assert Step.model_validate(stored) == said
    assert stored["requirements"]["containers"] == ["apptainer", "podman", "singularity"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ({"stop": {"signal": "SIGKILL"}}, "steps.0.stop.signal: "),
        ({"stop": {"grace": True}}, "steps.0.stop.grace: it must be a number, not true"),
        ({"stop": {"grace": 3600}}, "steps.0: step s: stop.grace 3600 leaves nothing of wall_time 3600"),
        ({"image": "almalinux"}, "steps.0.image: "),
    ],
    ids=["signal", "truth", "grace", "image"],
)
def test_nonsense_is_refused_with_the_field_and_the_reason(words: dict[str, Any], complaint: str) -> None:
    raw = {"campaign": "c", "steps": [{"name": "s", "command": ["true"], **words}]}
    with pytest.raises(ValidationError) as refusal:
        Campaign.model_validate(raw)
    assert first_complaint(refusal.value, raw).startswith(complaint)
