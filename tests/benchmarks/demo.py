"""The whole time of `make demo`, dependencies installed: from nothing to the plot and back to nothing."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.figures import Figure

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "zmumu" / "demo.py"


def measure() -> list[Figure]:
    """One run, its processes' start and end counted."""
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        subprocess.run([sys.executable, str(SCRIPT), "--to", folder], check=True, capture_output=True)
        return [Figure("demo campaign, whole time", "embedded default", time.perf_counter() - begun, "s")]
