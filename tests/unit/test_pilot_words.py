"""What pilots may say of their nodes and slots: old pilots say less, and nonsense is refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from pipeline.cli.jobfile import first_complaint
from schemas.pilots import Assignment, Node, OfferRequest

OF_0_2_0 = {"host": "n1", "cores": 4, "memory": 8000, "disk": 10_000, "glibc": "2.34", "gpus": 0}
DETAILS = {
    "system_name": "Linux",
    "user_namespaces": True,
    "machine": "x86_64",
    "level": 3,
    "gpu": {"count": 2, "memory": 40_960, "vendor": "nvidia", "compute_capability": "8.0", "driver": "535.104.05"},
}
OFFER = {"cores": 4, "memory": 8000, "disk": 0, "time_left": 3600}


def test_a_pilot_of_0_2_0_says_nothing_of_its_node_and_offers_no_gpus() -> None:
    assert Node.model_validate(OF_0_2_0).details is None
    assert OfferRequest.model_validate(OFFER).gpus == 0


def test_an_assignment_of_an_api_of_0_2_0_has_no_gpus() -> None:
    files: dict[str, Any] = {"inputs": [], "outputs": [], "archive": [], "sandbox": None}
    said = {"job_id": 1, "attempt": 1, "command": ["true"], "environment": {}, **files}
    assert Assignment.model_validate({**said, "cores": 1, "memory": 1, "disk": 1, "wall_time": 1}).gpus == 0


def test_a_pilot_describes_its_node_in_the_words_of_requirements() -> None:
    details = Node.model_validate({**OF_0_2_0, "details": DETAILS}).details
    assert details is not None
    assert details.gpu is not None
    assert (details.level, details.gpu.compute_capability) == (3, "8.0")


@pytest.mark.parametrize(
    ("model", "said", "complaint"),
    [
        (OfferRequest, {**OFFER, "cores": 0}, "cores: Input should be greater than or equal to 1"),
        (OfferRequest, {**OFFER, "memory": 2**31}, "memory: Input should be less than or equal to 2147483647"),
        (OfferRequest, {**OFFER, "gpus": -1}, "gpus: Input should be greater than or equal to 0"),
        (OfferRequest, {**OFFER, "time_left": float("nan")}, "time_left: Input should be less than or equal to"),
        (OfferRequest, {**OFFER, "time_left": float("inf")}, "time_left: Input should be less than or equal to"),
        (OfferRequest, {**OFFER, "colour": "red"}, "colour: unknown field"),
        (Node, {**OF_0_2_0, "details": {"level": 0}}, "details.level: Input should be greater than or equal to 1"),
        (Node, {**OF_0_2_0, "details": {"gpu": {"count": 0}}}, "details.gpu.count: Input should be greater than"),
        (Node, {**OF_0_2_0, "details": {"machine": "x" * 101}}, "details.machine: String should have at most 100"),
    ],
    ids=["cores", "memory", "gpus", "NaN", "infinite", "unknown", "level", "no gpu", "long"],
)
def test_nonsense_is_refused_with_the_field_and_the_reason(
    model: type[BaseModel], said: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValidationError) as refusal:
        model.model_validate(said)
    assert first_complaint(refusal.value, said).startswith(complaint)
