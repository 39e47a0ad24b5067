"""The pilot as a file, and the rules that its source obeys."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pipeline.pilot
from pipeline.pilot_archive import build

SOURCE = Path(pipeline.pilot.__file__).parent


def test_the_same_source_makes_the_same_bytes(tmp_path: Path) -> None:
    first = build(tmp_path / "first.pyz")
    second = build(tmp_path)
    assert second.name == "penstock-pilot.pyz"
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes().startswith(b"#!/usr/bin/env python3\n")
    assert first.stat().st_mode & 0o777 == 0o755


def test_the_file_holds_the_pilot_alone(pilot_file: Path) -> None:
    with zipfile.ZipFile(pilot_file) as archive:
        names = archive.namelist()
        assert names == sorted(names)
        assert archive.read("pipeline/__init__.py") == b""
    modules = {f"pipeline/pilot/{path.name}" for path in SOURCE.glob("*.py")}
    assert set(names) == modules | {"__main__.py", "pipeline/__init__.py"}


def test_python_3_6_is_enough() -> None:
    vermin = Path(sys.executable).parent / "vermin"
    done = subprocess.run([vermin, "-t=3.6-", "--no-tips", SOURCE], capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stdout


def test_the_standard_library_is_enough() -> None:
    for path in SOURCE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.startswith("pipeline.pilot") or name.split(".")[0] in sys.stdlib_module_names, (path, name)
