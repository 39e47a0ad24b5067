"""The kustomize base and its overlays: valid for the API server, and what operators rely on holds."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import kubernetes_validate
import pytest

from pipeline.runtime.spec import declared_queues
from tests.deploy.manifests import (
    RENDERED,
    SECRETS_EXAMPLE,
    Pod,
    env_file,
    of_kind,
    pods,
    project_version,
    rendered,
    selects,
    settings_of,
)
from tests.documentation import ROOT, blocks
from tests.waiting import eventually

OLDEST, NEWEST = "1.27", "1.37"
"""Releases of Kubernetes whose API the manifests are checked against."""
SECRETS = {"penstock-secrets", "penstock-credentials"}
END = 10.0
"""Seconds that a process takes to end once its drain is over."""

ours = pytest.mark.parametrize("pod", [pod for pod in pods("overlays/keda") if pod.ours], ids=lambda pod: pod.name)
processes = pytest.mark.parametrize(
    "pod", [pod for pod in pods("overlays/keda") if pod.ours and pod.kind == "Deployment"], ids=lambda pod: pod.name
)
everywhere = pytest.mark.parametrize("kustomization", RENDERED)


def settings_map() -> Mapping[str, str]:
    [found] = of_kind("base", "ConfigMap")
    data: Mapping[str, str] = found["data"]
    return data


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_the_api_server_takes_every_object(version: str) -> None:
    distinct = {json.dumps(manifest): manifest for name in RENDERED for manifest in rendered(name)}
    for manifest in distinct.values():
        if not manifest["apiVersion"].startswith("keda.sh/"):
            kubernetes_validate.validate(manifest, version, strict=True)


def test_a_field_that_does_not_exist_is_found() -> None:
    [service] = of_kind("base", "Service")
    with pytest.raises(kubernetes_validate.ValidationError, match="selectorr"):
        kubernetes_validate.validate({**service, "spec": {"selectorr": {}}}, NEWEST, strict=True)


def test_every_queue_the_api_and_the_triggers_have_a_deployment_and_the_schema_a_job() -> None:
    expected: dict[tuple[str, ...], str] = {
        ("api",): "Deployment",
        ("triggers",): "Deployment",
        ("db", "upgrade"): "Job",
    }
    expected |= {("consume", queue): "Deployment" for queue in declared_queues()}
    assert {pod.command(): pod.kind for pod in pods("base")} == expected


@ours
def test_a_pod_runs_locked_up(pod: Pod) -> None:
    spec = pod.spec
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False  # PENSTOCK_API_PORT=tcp://... would be no port
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == spec["securityContext"]["fsGroup"] == 10001
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in [*spec["containers"], *spec.get("initContainers", ())]:
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}
        assert container["resources"]["limits"].keys() == {"memory"}


@ours
def test_what_a_process_writes_has_a_volume(pod: Pod) -> None:
    settings = settings_of(settings_map())
    mounted = {mount["mountPath"]: mount["name"] for mount in pod.main["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod.spec["volumes"]}
    assert set(mounted.values()) == set(volumes)
    assert "emptyDir" in volumes[mounted["/tmp"]]
    assert "emptyDir" in volumes[mounted[str(settings.data_dir)]]
    assert "persistentVolumeClaim" in volumes[mounted[settings.sandbox_url.removeprefix("file://")]]


@processes
def test_a_process_is_asked_for_its_health_and_has_the_time_to_drain(pod: Pod) -> None:
    settings, main = settings_of(settings_map()), pod.main
    [port] = main["ports"]
    assert port["containerPort"] == (settings.api_port if pod.command() == ("api",) else settings.health_port)
    probes = {name: main[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "startupProbe": "/livez",
        "livenessProbe": "/livez",
        "readinessProbe": "/readyz",
    }
    assert {probe["port"] for probe in probes.values()} == {port["name"]}
    assert (settings.api_host, settings.health_host) == ("0.0.0.0", "0.0.0.0")  # noqa: S104 - it is compared

    stopping = float(main["lifecycle"]["preStop"]["exec"]["command"][1]) if "lifecycle" in main else 0.0
    assert ("lifecycle" in main) == (pod.command() == ("api",))  # nothing is routed to the others
    assert pod.spec["terminationGracePeriodSeconds"] >= stopping + settings.drain_deadline + END


def test_processes_are_exchanged_one_at_a_time() -> None:
    for deployment in of_kind("base", "Deployment"):
        strategy = deployment["spec"]["strategy"]
        assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}


def test_a_selector_takes_the_pods_of_its_own_workload() -> None:
    """Of labels that are too few, a Deployment would adopt another's pods, and a budget would count them."""
    all_pods = pods("overlays/keda")
    for manifest in of_kind("overlays/keda", "Deployment", "StatefulSet", "PodDisruptionBudget", "Service"):
        said = manifest["spec"]["selector"]
        selector = {"matchLabels": said} if manifest["kind"] == "Service" else said
        assert [pod.name for pod in all_pods if selects(selector, pod.labels)] == [manifest["metadata"]["name"]]


@processes
def test_the_pods_of_a_process_are_spread_over_nodes(pod: Pod) -> None:
    [spread] = pod.spec["topologySpreadConstraints"]
    own = {key: pod.labels[key] for key in spread["matchLabelKeys"]}  # as the scheduler fills them in
    selected = {**spread["labelSelector"]["matchLabels"], **own}
    assert spread["topologyKey"] == "kubernetes.io/hostname"
    taken = {other.name for other in pods("overlays/keda") if selected.items() <= other.labels.items()}
    assert taken == {pod.name}


@processes
def test_a_pod_that_waits_for_the_schema_ends_at_once(pod: Pod, tmp_path: Path) -> None:
    [schema] = [container for container in pod.spec["initContainers"] if container["name"] == "schema"]
    (tmp_path / "penstock").write_text(f"#!/bin/sh\ntouch {tmp_path}/asked\nexit 1\n")
    (tmp_path / "penstock").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    with subprocess.Popen(schema["command"], env=environment, start_new_session=True) as waiting:
        eventually((tmp_path / "asked").exists)
        begun = time.monotonic()
        waiting.terminate()
        assert waiting.wait(30) == 1, "by its own word: as pid 1 it would not have minded the signal otherwise"
        assert time.monotonic() - begun < END


def test_each_process_may_lose_one_pod_to_a_node_that_is_emptied() -> None:
    budgets = {budget["metadata"]["name"]: budget["spec"] for budget in of_kind("base", "PodDisruptionBudget")}
    assert budgets.keys() == {deployment["metadata"]["name"] for deployment in of_kind("base", "Deployment")}
    assert {budget["maxUnavailable"] for budget in budgets.values()} == {1}


@everywhere
def test_what_is_referred_to_is_there(kustomization: str) -> None:
    """A Deployment whose ConfigMap is called otherwise waits for ever."""
    names = {(manifest["kind"], manifest["metadata"]["name"]) for manifest in rendered(kustomization)}
    claimed = {
        (claim["metadata"]["name"])
        for manifest in of_kind(kustomization, "StatefulSet")
        for claim in manifest["spec"]["volumeClaimTemplates"]
    }
    for pod in pods(kustomization):
        text = json.dumps(pod.spec)
        assert set(re.findall(r'"(?:secretRef|secretKeyRef)": {[^}]*"name": "([^"]+)"', text)) <= SECRETS
        assert set(re.findall(r'"secretName": "([^"]+)"', text)) <= SECRETS
        for name in re.findall(r'"configMapRef": {"name": "([^"]+)"', text):
            assert ("ConfigMap", name) in names
        for name in re.findall(r'"claimName": "([^"]+)"', text):
            assert ("PersistentVolumeClaim", name) in names
        volumes = {volume["name"] for volume in pod.spec.get("volumes", ())} | claimed
        assert {mount["name"] for mount in pod.main["volumeMounts"]} <= volumes


@everywhere
def test_the_settings_of_a_pod_are_settings_and_name_the_broker_that_comes_with_it(kustomization: str) -> None:
    [data] = [config["data"] for config in of_kind(kustomization, "ConfigMap")]
    brokers = [pod.name for pod in pods(kustomization) if not pod.ours] or ["rabbit1.example.org"]
    for pod in pods(kustomization):
        if pod.ours:
            settings = settings_of({**data, **env_file(SECRETS_EXAMPLE), **pod.environment()})
            assert settings.database_url
            assert brokers[0] in settings.broker_url


def test_the_image_is_of_this_release() -> None:
    images = {container["image"] for pod in pods("overlays/keda") if pod.ours for container in pod.spec["containers"]}
    images |= {first["image"] for pod in pods("base") for first in pod.spec.get("initContainers", ())}
    assert images == {f"penstock:{project_version()}"}


def test_the_secret_is_named_as_the_example_says() -> None:
    assert "generic penstock-secrets --from-env-file" in SECRETS_EXAMPLE.read_text()


def test_the_overlay_of_the_documentation_changes_image_settings_and_how_many_there_are(tmp_path: Path) -> None:
    shown = next(block.body for block in blocks(ROOT / "docs/how-to/deploy.md") if block.language == "yaml")
    (tmp_path / "own").mkdir()
    (tmp_path / "penstock").symlink_to(ROOT)
    (tmp_path / "own" / "kustomization.yaml").write_text(shown.replace("PATH/TO", ".."))
    objects = rendered(str(tmp_path / "own"))
    [settings] = [manifest for manifest in objects if manifest["kind"] == "ConfigMap"]
    assert settings["data"] == {**settings_map(), "PENSTOCK_API_URL": "https://penstock.muons.example.org"}
    many = {made["metadata"]["name"]: made["spec"]["replicas"] for made in objects if made["kind"] == "Deployment"}
    assert many["penstock-consumer-matching"] == 4
    assert f"registry.example.org/penstock:{project_version()}" in json.dumps(objects)
    assert f'"penstock:{project_version()}"' not in json.dumps(objects)
