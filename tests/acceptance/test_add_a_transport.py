"""The page about adding a transport is true: what it says is typed, and the suite runs over a package from outside."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.documentation import ROOT, Block, blocks

PAGE = ROOT / "docs" / "how-to" / "add-a-transport.md"
LIMIT = 240.0
"""Seconds that one command may take."""


def reader(folder: Path) -> dict[str, str]:
    """A virtual environment, as far as a reader of the page sees: pip installs into it, without asking an index."""
    site = folder / "site"
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(site),
        "PYTEST_ADDOPTS": "-p no:cacheprovider",
        "PIP_TARGET": str(site),
        "PIP_NO_INDEX": "1",
        "PIP_NO_DEPS": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # the way to say yes to a switch whose name says no
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_ROOT_USER_ACTION": "ignore",
    }


def type_in(block: Block, folder: Path) -> str:
    """What the commands of a block print, each typed where the one before left off."""
    done = subprocess.run(
        ["bash", "-e", "-c", "\n".join(block.commands())], cwd=folder, env=reader(folder),
        capture_output=True, text=True, timeout=LIMIT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{block.body}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_the_memory_transport_from_outside_passes_the_suite(tmp_path: Path) -> None:
    (tmp_path / "penstock").symlink_to(ROOT)
    printed = ""
    for block in blocks(PAGE):
        if block.language == "toml":
            (tmp_path / "postbox" / "pyproject.toml").write_text(block.body)
        elif block.is_run:
            printed = type_in(block, tmp_path)
    passed = re.search(r"(\d+) passed", printed)
    assert passed is not None, printed
    assert int(passed[1]) >= 25, printed
    assert "failed" not in printed
    assert (tmp_path / "site" / "postbox" / "transport.py").exists()
