"""The NetworkPolicies: what may talk to what, worked out as Kubernetes does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from tests.deploy.manifests import Manifest, Pod, of_kind, pods, selects

MONITORING = {"kubernetes.io/metadata.name": "monitoring"}
BROKERS = {"overlays/redis": (6379,), "overlays/rabbitmq": (5672, 15672)}
DATABASE, DNS, SLURM_LOGIN = 3306, 53, 22


def allowed(kustomization: str, direction: str, pod: Pod, port: int, peer: Pod | Mapping[str, str] | None) -> bool:
    """Whether traffic in a direction, `Ingress` or `Egress`, is let through at this pod.

    `peer` is a pod of the same namespace, the labels of another namespace, or None for a machine outside. The port
    is the one listened on.
    """
    policies = [
        policy["spec"]
        for policy in of_kind(kustomization, "NetworkPolicy")
        if selects(policy["spec"]["podSelector"], pod.labels) and direction in policy["spec"]["policyTypes"]
    ]
    listener = pod if direction == "Ingress" else peer
    rules: list[Manifest] = [rule for policy in policies for rule in policy.get(direction.lower(), ())]
    side = "from" if direction == "Ingress" else "to"
    return not policies or any(
        _port(rule.get("ports"), port, listener) and _peer(rule.get(side), peer) for rule in rules
    )


def _port(ports: Sequence[Manifest] | None, port: int, listener: object) -> bool:
    named = {}
    if isinstance(listener, Pod):
        named = {entry["name"]: entry["containerPort"] for entry in listener.main["ports"]}
    return ports is None or any(named.get(entry["port"], entry["port"]) == port for entry in ports)


def _peer(peers: Sequence[Manifest] | None, peer: Pod | Mapping[str, str] | None) -> bool:
    if peers is None:
        return True
    if isinstance(peer, Pod):
        return any("podSelector" in entry and selects(entry["podSelector"], peer.labels) for entry in peers)
    return peer is not None and any(
        "namespaceSelector" in entry and selects(entry["namespaceSelector"], peer) for entry in peers
    )


def running(kustomization: str) -> dict[str, Pod]:
    return {pod.name: pod for pod in pods(kustomization) if pod.kind != "Job"}


@pytest.mark.parametrize("kustomization", BROKERS)
def test_every_process_reaches_its_broker_and_its_database(kustomization: str) -> None:
    [broker] = [pod for pod in pods(kustomization) if not pod.ours]
    for pod in pods(kustomization):
        if pod.ours:
            for port in BROKERS[kustomization]:
                assert allowed(kustomization, "Egress", pod, port, broker)
                assert allowed(kustomization, "Ingress", broker, port, pod)
            assert allowed(kustomization, "Egress", pod, DATABASE, None)
            assert allowed(kustomization, "Egress", pod, DNS, None)
    assert not allowed(kustomization, "Ingress", broker, BROKERS[kustomization][0], MONITORING)
    assert not allowed(kustomization, "Egress", broker, 443, None)


def test_the_api_is_for_everybody_and_the_others_for_prometheus_alone() -> None:
    for name, pod in running("base").items():
        port = pod.main["ports"][0]["containerPort"]
        assert allowed("base", "Ingress", pod, port, MONITORING)
        assert allowed("base", "Ingress", pod, port, None) == (name == "penstock-api")


def test_only_pilots_and_data_reach_batch_systems_and_storages() -> None:
    reaching = {name for name, pod in running("base").items() if allowed("base", "Egress", pod, SLURM_LOGIN, None)}
    assert reaching == {"penstock-consumer-pilots", "penstock-consumer-data"}
