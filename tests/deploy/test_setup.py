"""`deploy/setup.sh` names what is missing, and installs nothing when it may not."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.manifests import DEPLOY

SETUP = DEPLOY / "setup.sh"


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """The PATH of a machine without any of the servers, and of a user who is not root."""
    for name in ("bash", "dirname", "env", "sh"):
        found = shutil.which(name)
        assert found
        (tmp_path / name).symlink_to(found)
    (tmp_path / "id").write_text("#!/bin/sh\necho 1000\n")
    (tmp_path / "id").chmod(0o755)
    return tmp_path


def run(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(SETUP), *arguments],
        env={"PATH": str(path), "PYTHON": sys.executable}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_what_is_missing_is_named_and_left_to_the_user(bare: Path) -> None:
    done = run(bare, "test")
    assert done.returncode == 2
    assert {"kubernetes-client", "prometheus", "docker-compose", "systemd", "podman", "gcc"} <= set(done.stderr.split())
    assert "sudo apt-get install" in done.stderr


def test_the_demo_needs_no_server(bare: Path) -> None:
    assert run(bare, "demo").returncode == 0


def test_a_word_that_it_does_not_know_is_refused(bare: Path) -> None:
    done = run(bare, "everything")
    assert (done.returncode, done.stderr.strip()) == (2, "usage: deploy/setup.sh demo|test")


def test_no_package_is_named_twice() -> None:
    needed = re.findall(r"^    need (\S+) ", SETUP.read_text().partition("\ntest)")[2], re.MULTILINE)
    assert len(needed) > 20
    assert len(needed) == len(set(needed))
