"""The compose file and Prometheus' configuration: taken by their programs, and they fit each other."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.runtime.spec import declared_queues
from tests.deploy.manifests import DEPLOY, env_file, project_version, settings_of
from tests.documentation import ROOT
from tests.servers import find_program

EXAMPLE = DEPLOY / "compose.env.example"
END = 10.0


@cache
def project() -> dict[str, Any]:
    """The file with its variables filled in, by docker-compose, which checks it against the specification."""
    done = config(EXAMPLE)
    assert done.returncode == 0, done.stderr
    rendered: dict[str, Any] = yaml.safe_load(done.stdout)
    return rendered


def config(variables: Path, file: Path = DEPLOY / "compose.yaml") -> subprocess.CompletedProcess[str]:
    """What docker-compose makes of the file and of these variables."""
    program = find_program(["docker-compose"], "docker-compose")
    return subprocess.run(
        [program, "--file", str(file), "--env-file", str(variables), "config"],
        capture_output=True, text=True, timeout=60, check=False, env={"PATH": "/usr/bin:/bin"},
    )  # fmt: skip


def services() -> dict[str, Any]:
    """The services that run Penstock, by name."""
    found: dict[str, Any] = project()["services"]
    return {name: service for name, service in found.items() if service["image"].startswith("penstock:")}


def mounts(service: dict[str, Any]) -> list[tuple[str, str]]:
    """(source, target) of its volumes, as either generation of docker-compose writes them."""
    found = service.get("volumes", ())
    split = [
        volume.split(":")[:2] if isinstance(volume, str) else (volume["source"], volume["target"]) for volume in found
    ]
    return [(source, target) for source, target in split]


def test_without_its_secrets_nothing_starts(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    done = config(tmp_path / "empty")
    assert done.returncode != 0
    assert "set it in deploy/.env" in done.stderr
    assert set(env_file(EXAMPLE).values()) == {"SECRET"}  # nobody's password is committed


def test_a_field_that_does_not_exist_is_found(tmp_path: Path) -> None:
    broken = tmp_path / "compose.yaml"
    broken.write_text((DEPLOY / "compose.yaml").read_text().replace("cap_drop", "cap_drops"))
    done = config(EXAMPLE, broken)
    assert done.returncode != 0
    assert "cap_drops" in done.stderr


def test_there_is_a_service_for_each_process() -> None:
    commands = {name: tuple(service["command"]) for name, service in services().items()}
    consumers = {queue: ("consume", queue) for queue in declared_queues()}
    assert commands == {"api": ("api",), "triggers": ("triggers",), "migrate": ("db", "upgrade"), **consumers}


@pytest.mark.parametrize("name", sorted(services()))
def test_a_service_is_locked_up_and_has_the_time_to_drain(name: str) -> None:
    service = services()[name]
    settings = settings_of(service["environment"])
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {mount.split(":")[0] for mount in service["tmpfs"]} == {"/tmp", "/var/lib/penstock"}
    assert mounts(service) == [("sandboxes", settings.sandbox_url.removeprefix("file://"))]
    assert _seconds(service["stop_grace_period"]) >= settings.drain_deadline + END
    assert service["image"] == f"penstock:{project_version()}"
    assert (ROOT / service["build"]["dockerfile"]).is_file()
    if name != "migrate":
        assert service["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
        port = settings.api_port if name == "api" else settings.health_port
        assert f":{port}/readyz" in service["healthcheck"]["test"][-1]


def test_what_others_are_waited_for_can_be_told() -> None:
    for service in project()["services"].values():
        for other, needed in (service.get("depends_on") or {}).items():
            if needed["condition"] == "service_healthy":
                assert "test" in project()["services"][other]["healthcheck"]


def test_what_is_mounted_is_there() -> None:
    for service in project()["services"].values():
        for source, _ in mounts(service):
            assert source in project()["volumes"] or Path(source).is_relative_to(DEPLOY)
            assert source in project()["volumes"] or Path(source).exists()


def test_prometheus_takes_its_configuration() -> None:
    program = find_program(["promtool"], "prometheus")
    done = subprocess.run(
        [program, "check", "config", str(DEPLOY / "prometheus" / "prometheus.yml")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_prometheus_scrapes_every_process() -> None:
    configuration = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    [job] = [job for job in configuration["scrape_configs"] if job["job_name"] == "penstock"]
    scraped = {name: found["port"] for found in job["dns_sd_configs"] for name in found["names"]}
    expected = {}
    for name, service in services().items():
        settings = settings_of(service["environment"])
        if name != "migrate":
            expected[name] = settings.api_port if name == "api" else settings.health_port
    assert scraped == expected
    assert configuration["rule_files"] == ["rules/*.yml"]
    assert list((DEPLOY / "prometheus").glob("rules/*.yml"))


def _seconds(period: str) -> float:
    minutes, _, seconds = period.removesuffix("s").rpartition("m")
    return 60 * float(minutes or 0) + float(seconds or 0)
