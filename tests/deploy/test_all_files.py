"""No file of `deploy/` is left unvalidated."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.deploy.manifests import DEPLOY, KUSTOMIZE, RENDERED
from tests.documentation import ROOT

VALIDATED = {
    "Containerfile": "deploy/test_image.py",
    "README.md": "deploy/test_all_files.py",
    "compose.yaml": "deploy/test_compose.py",
    "compose.env.example": "deploy/test_compose.py",
    "grafana/dashboards/*.json": "unit/test_monitoring.py",
    "grafana/provisioning/*/*.yml": "unit/test_monitoring.py",
    "kustomize/**/*.yaml": "deploy/test_kubernetes.py",
    "kustomize/base/settings.env": "deploy/test_kubernetes.py",
    "kustomize/secrets.env.example": "deploy/test_kubernetes.py",
    "prometheus/prometheus.yml": "deploy/test_compose.py",
    "prometheus/rules/*.yml": "unit/test_monitoring.py",
    "prometheus/tests/*.yml": "unit/test_monitoring.py",
    "setup.sh": "deploy/test_setup.py",
    "systemd/*.service": "deploy/test_systemd.py",
    "systemd/*.service.d/*.conf": "deploy/test_systemd.py",
    "systemd/*.target": "deploy/test_systemd.py",
    "systemd/penstock.env.example": "deploy/test_systemd.py",
}
"""Which test under `tests` reads which files."""


def test_every_file_has_a_test_that_reads_it() -> None:
    assert all((ROOT / "tests" / test).is_file() for test in VALIDATED.values())
    validated = {path for pattern in VALIDATED for path in DEPLOY.glob(pattern)}
    files = {path for path in DEPLOY.rglob("*") if path.is_file() and path.name != ".env"}
    assert files - validated == set()


def test_every_manifest_is_part_of_what_is_rendered() -> None:
    """A file that no kustomization names would be validated by nobody, and applied by nobody."""
    reached: set[Path] = set()
    for name in RENDERED:
        _reach(KUSTOMIZE / name, reached)
    assert set(KUSTOMIZE.rglob("*.yaml")) - reached == set()


def _reach(folder: Path, reached: set[Path]) -> None:
    file = folder / "kustomization.yaml"
    reached.add(file)
    said = yaml.safe_load(file.read_text())
    for name in [*said.get("resources", ()), *said.get("components", ())]:
        path = (folder / name).resolve()
        if path.is_dir():
            _reach(path, reached)
        else:
            reached.add(path)
    reached |= {folder / patch["path"] for patch in said.get("patches", ()) if "path" in patch}


def test_the_readme_names_what_is_there() -> None:
    text = (DEPLOY / "README.md").read_text()
    entries = {path.name for path in DEPLOY.iterdir() if not path.name.startswith(".")} - {"README.md"}
    assert {name for name in entries if f"`{name}`" not in text and f"`{name}/`" not in text} == set()
