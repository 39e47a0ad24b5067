"""KEDA's ScaledObjects: one per queue, by the number of consumers that Penstock itself wants."""

from __future__ import annotations

import re
from typing import Any

import kubernetes_validate
import pytest
from pydantic import ValidationError

from pipeline.runtime.spec import declared_queues
from pipeline.scaling import Bounds
from tests.deploy.keda_fields import ScaledObject
from tests.deploy.manifests import Manifest, of_kind, pods

WANTED = re.compile(r'^max\(penstock_queue_workers_wanted\{queue="(\w+)"\}\)$')
"""Each API process tells the same number, so the greatest and not the sum."""


def scaled_objects() -> list[Manifest]:
    return of_kind("overlays/keda", "ScaledObject")


def test_every_consumer_is_scaled_by_what_its_own_queue_wants() -> None:
    commands = {pod.name: pod.command() for pod in pods("overlays/keda") if pod.ours}
    queues = {name: command[1] for name, command in commands.items() if command[0] == "consume"}
    asked = {}
    for manifest in scaled_objects():
        spec = ScaledObject.model_validate(manifest).spec
        [trigger] = spec.triggers  # KEDA takes the greatest of several
        found = WANTED.match(trigger.metadata.query)
        assert found, trigger.metadata.query
        asked[spec.scale_target_ref.name] = found[1]
        assert (trigger.metric_type, trigger.metadata.threshold) == ("AverageValue", "1")  # a pod per consumer wanted
        assert trigger.metadata.ignore_null_values == "false"  # no answer is not "none are wanted"
        assert spec.min_replica_count == Bounds().least
        assert spec.max_replica_count >= Bounds().most
    assert asked == queues
    assert set(asked.values()) == set(declared_queues())


def test_what_is_scaled_is_not_set_back_by_the_next_apply() -> None:
    replicas = {
        deployment["metadata"]["name"]: deployment["spec"].get("replicas")
        for deployment in of_kind("overlays/keda", "Deployment")
    }
    scaled = {manifest["spec"]["scaleTargetRef"]["name"] for manifest in scaled_objects()}
    assert {name for name, count in replicas.items() if count is None} == scaled


def test_how_fast_is_scaled_is_valid_for_the_autoscaler() -> None:
    for manifest in scaled_objects():
        spec = ScaledObject.model_validate(manifest).spec
        assert spec.advanced is not None
        assert spec.advanced.horizontal_pod_autoscaler_config is not None
        behavior = spec.advanced.horizontal_pod_autoscaler_config.behavior
        target = {"kind": "Deployment", "name": spec.scale_target_ref.name}
        autoscaler = {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "made-by-keda"},
            "spec": {"maxReplicas": spec.max_replica_count, "scaleTargetRef": target, "behavior": behavior},
        }
        kubernetes_validate.validate(autoscaler, "1.37", strict=True)


@pytest.mark.parametrize(
    "change",
    [
        {"minReplicas": 1},
        {"minReplicaCount": 20},
        {"triggers": []},
        {"triggers": [{"type": "prometheus", "metadata": {"query": "x", "threshold": 1, "serverAddress": "http://p"}}]},
        {"triggers": [{"type": "prometheus", "metadata": {"query": "x", "threshold": "1"}}]},
    ],
    ids=["no such field", "bounds", "no trigger", "a number for a string", "no server"],
)
def test_what_keda_would_refuse_is_refused(change: dict[str, Any]) -> None:
    manifest = scaled_objects()[0]
    with pytest.raises(ValidationError):
        ScaledObject.model_validate({**manifest, "spec": {**manifest["spec"], **change}})
