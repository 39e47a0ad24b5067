"""What `deploy/` says, rendered by the programs that will read it."""

from __future__ import annotations

import re
import subprocess
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.settings import Settings
from pipeline.settings_file import load_settings
from tests.documentation import ROOT
from tests.servers import find_program

DEPLOY = ROOT / "deploy"
KUSTOMIZE = DEPLOY / "kustomize"
SYSTEMD = DEPLOY / "systemd"
SECRETS_EXAMPLE = KUSTOMIZE / "secrets.env.example"
RENDERED = ("base", "overlays/redis", "overlays/rabbitmq", "overlays/keda")
"""What an operator applies. The components are parts of these."""

Manifest = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Pod:
    """A workload's pods."""

    name: str
    kind: str
    labels: Mapping[str, str]
    spec: Manifest

    @property
    def ours(self) -> bool:
        """Whether Penstock runs in it."""
        return self.labels["app.kubernetes.io/name"] == "penstock"

    @property
    def main(self) -> Manifest:
        """The container that the pod is for."""
        containers: list[Manifest] = self.spec["containers"]
        assert len(containers) == 1
        return containers[0]

    def environment(self) -> dict[str, str]:
        """The variables of `env`, filled in one after the other as the kubelet does it; of the example's secrets."""
        known: dict[str, str] = {}
        secrets = env_file(SECRETS_EXAMPLE)
        for entry in self.main.get("env", ()):
            source = entry.get("valueFrom", {})
            if "secretKeyRef" in source:
                known[entry["name"]] = secrets[source["secretKeyRef"]["key"]]
            elif "fieldRef" in source:
                known[entry["name"]] = self.labels[source["fieldRef"]["fieldPath"].split("'")[1]]
            else:
                known[entry["name"]] = _filled(entry["value"], known)
        return known

    def command(self) -> tuple[str, ...]:
        """The arguments of `penstock`."""
        known = self.environment()
        return tuple(_filled(word, known) for word in self.main["args"])


def _filled(text: str, known: Mapping[str, str]) -> str:
    return re.sub(r"\$\((\w+)\)", lambda found: known[found[1]], text)


@cache
def rendered(kustomization: str) -> tuple[Manifest, ...]:
    """The objects of a kustomization, by kubectl; AssertionError with what it says, warnings too."""
    kubectl = find_program(["kubectl"], "kubernetes-client")
    done = subprocess.run(
        [kubectl, "kustomize", str(KUSTOMIZE / kustomization)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def of_kind(kustomization: str, *kinds: str) -> list[Manifest]:
    """The rendered objects of these kinds."""
    return [manifest for manifest in rendered(kustomization) if manifest["kind"] in kinds]


def pods(kustomization: str) -> list[Pod]:
    """The pods of every workload."""
    return [
        Pod(
            manifest["metadata"]["name"],
            manifest["kind"],
            manifest["spec"]["template"]["metadata"]["labels"],
            manifest["spec"]["template"]["spec"],
        )
        for manifest in of_kind(kustomization, "Deployment", "StatefulSet", "Job")
    ]


def selects(selector: Manifest, labels: Mapping[str, str]) -> bool:
    """Whether a label selector, of the forms that we use, takes a pod with these labels."""
    equal = all(labels.get(name) == value for name, value in selector.get("matchLabels", {}).items())
    expressions: Sequence[Manifest] = selector.get("matchExpressions", ())
    assert all(expression["operator"] == "In" for expression in expressions)
    return equal and all(labels.get(expression["key"]) in expression["values"] for expression in expressions)


def project_version() -> str:
    """This release."""
    version: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    return version


def env_file(path: Path) -> dict[str, str]:
    """The variables of an environment file."""
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def settings_of(variables: Mapping[str, str]) -> Settings:
    """The settings that a process with these variables has; BadSettings where one is wrong, as for it."""
    unknown = {name for name in variables if name.startswith("PENSTOCK_")} - {
        f"PENSTOCK_{name.upper()}" for name in Settings.model_fields
    }
    assert unknown == set(), "no such settings"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        return load_settings()


def unit_sections(name: str, instance: str = "") -> Iterator[tuple[str, str, str]]:
    """(section, key, value) of a systemd unit with the drop-ins that apply to it, in the order of reading."""
    specific = name.replace("@.", f"@{instance}.") if instance else name
    folders = [SYSTEMD / "penstock-.service.d", SYSTEMD / f"{name}.d"] + [SYSTEMD / f"{specific}.d"] * bool(instance)
    for path in [SYSTEMD / name, *(file for folder in folders for file in sorted(folder.glob("*.conf")))]:
        section = ""
        for line in path.read_text().splitlines():
            if line.startswith("["):
                section = line.strip("[]")
            elif "=" in line and not line.startswith("#"):
                key, value = line.split("=", 1)
                yield section, key, value.replace("%i", instance)
