"""Builds `penstock-pilot.pyz`: the pilot as one file, the same bytes from the same source."""

from __future__ import annotations

import io
import zipfile
from functools import cache
from pathlib import Path

import pipeline.pilot
from pipeline.pilot import durable

NAME = "penstock-pilot.pyz"
_SHEBANG = b"#!/usr/bin/env python3\n"
_EPOCH = (1980, 1, 1, 0, 0, 0)
_START = "import runpy\n\nrunpy.run_module('pipeline.pilot', run_name='__main__', alter_sys=True)\n"


def build(target: Path) -> Path:
    """Write the zipapp to `target` (or into it, where it is a folder), mode 755, and return its path.

    Raises OSError.
    """
    path = target / NAME if target.is_dir() else target
    durable.write(str(path), packed())
    path.chmod(0o755)
    return path


@cache
def packed() -> bytes:
    """The program itself, as it was when this process first asked."""
    source = Path(pipeline.pilot.__file__).parent
    # an empty `pipeline` stands in for the real one: the modules keep their names, and nothing else comes along
    contents = {"__main__.py": _START.encode(), "pipeline/__init__.py": b""}
    contents.update({f"pipeline/pilot/{file.name}": file.read_bytes() for file in source.glob("*.py")})
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(contents):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, contents[name])
    return _SHEBANG + buffer.getvalue()
