"""The Containerfile: it copies what there is, installs what is locked, and runs as nobody.

It is not built here: a base image would have to be fetched. docs/how-to/deploy.md says how it was built by hand.
"""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from typing import Any

from tests.deploy.manifests import DEPLOY, pods
from tests.documentation import ROOT


def instructions() -> list[tuple[str, str]]:
    """(instruction, arguments) with lines joined and comments left out."""
    lines = [line for line in (DEPLOY / "Containerfile").read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def last_stage() -> dict[str, str]:
    stage: dict[str, str] = {}
    for word, rest in instructions():
        stage = {} if word == "FROM" else {**stage, word: rest}
    return stage


def test_it_ends_as_a_user_without_rights_that_orchestrators_can_check() -> None:
    stage = last_stage()
    assert stage["USER"] == "10001:10001"
    assert {pod.spec["securityContext"]["runAsUser"] for pod in pods("base")} == {10001}
    assert json.loads(stage["ENTRYPOINT"])[-1] == "penstock"
    assert "HEALTHCHECK" not in stage  # the orchestrator's


def test_what_is_copied_is_there_and_is_all_of_the_wheel() -> None:
    sources = [
        source
        for word, rest in instructions()
        if word == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    ]
    assert all((ROOT / source).exists() for source in sources)
    assert set(project()["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) <= set(sources)
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert let_in == set(sources)


def test_it_installs_what_is_locked_with_the_uv_of_the_makefile() -> None:
    arguments = dict(rest.split("=", 1) for word, rest in instructions() if word == "ARG")
    makefile = re.search(r"^UV_VERSION := (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert makefile is not None
    assert arguments["UV_VERSION"] == makefile[1]
    assert set(arguments["EXTRAS"].strip('"').split()) <= set(project()["project"]["optional-dependencies"])
    text = (DEPLOY / "Containerfile").read_text()
    assert text.count("uv pip install") == text.count("--require-hashes") + text.count("--no-deps")


def test_what_it_runs_is_shell() -> None:
    runs = [rest for word, rest in instructions() if word == "RUN"]
    assert len(runs) == 4
    for line in runs:
        subprocess.run(["sh", "-n", "-c", line], check=True)


def test_no_base_is_of_any_version() -> None:
    [base] = [rest.split("=", 1)[1] for word, rest in instructions() if word == "ARG" and rest.startswith("BASE=")]
    assert re.fullmatch(r"[\w./-]+:\d[\w.-]*", base)
    assert {rest.split()[0] for word, rest in instructions() if word == "FROM"} == {"${BASE}"}
