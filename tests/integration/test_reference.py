"""The pages of the reference that are written by `make docs` are those that the code gives."""

from __future__ import annotations

import subprocess
import sys

from tests.documentation import ROOT


def test_the_generated_pages_are_fresh() -> None:
    check = subprocess.run(
        [sys.executable, ROOT / "docs" / "generate.py", "--check"], capture_output=True, text=True, check=False
    )
    assert check.returncode == 0, f"run `make docs`: {check.stdout}{check.stderr}"
