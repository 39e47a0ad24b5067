"""Sandboxes: deterministic, bounded, and refused before anything is sent."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from pipeline.cli.packing import pack_sandboxes
from pipeline.errors import BadInput
from schemas.campaign import Campaign


def campaign(*sandbox: str) -> Campaign:
    """One step that sends these files."""
    return Campaign.model_validate(
        {"campaign": "c", "steps": [{"name": "one", "command": ["true"], "sandbox": list(sandbox)}]}
    )


def packed(folder: Path, *sandbox: str, limit: int = 10) -> bytes:
    return pack_sandboxes(folder / "job.yaml", campaign(*sandbox), limit)["one"]


def names(content: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return archive.getnames()


def test_equal_files_pack_to_equal_bytes_whatever_their_times_and_order(tmp_path: Path) -> None:
    (tmp_path / "b.py").write_text("b")
    (tmp_path / "a.py").write_text("a")
    first = packed(tmp_path, "b.py", "a.py")
    os.utime(tmp_path / "a.py", (1, 1))
    assert packed(tmp_path, "a.py", "b.py") == first
    assert names(first) == ["a.py", "b.py"]


def test_files_keep_their_place_beside_the_job_file(tmp_path: Path) -> None:
    (tmp_path / "lib" / "deep").mkdir(parents=True)
    (tmp_path / "lib" / "deep" / "x.py").write_text("x")
    (tmp_path / "lib" / "y.py").write_text("y")
    assert names(packed(tmp_path, "lib")) == ["lib/deep/x.py", "lib/y.py"]
    assert names(packed(tmp_path, "lib/deep/x.py")) == ["lib/deep/x.py"]


def test_files_from_elsewhere_lie_at_the_top(tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    (tmp_path / "x.py").write_text("x")
    assert names(packed(tmp_path / "job", "../x.py")) == ["x.py"]
    assert names(packed(tmp_path / "job", str(tmp_path / "x.py"))) == ["x.py"]


def test_programs_stay_executable(tmp_path: Path) -> None:
    (tmp_path / "run.sh").write_text("#!/bin/sh\n")
    (tmp_path / "run.sh").chmod(0o700)
    (tmp_path / "data").write_text("")
    with tarfile.open(fileobj=io.BytesIO(packed(tmp_path, "run.sh", "data"))) as archive:
        assert {member.name: oct(member.mode) for member in archive} == {"run.sh": "0o755", "data": "0o644"}


def test_a_missing_file_is_told_with_its_field(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=rf"{tmp_path}/job\.yaml: steps\.0\.sandbox: there is no file {tmp_path}/gone"):
        packed(tmp_path, "gone")


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    for path in (tmp_path / "x.py", tmp_path / "job" / "x.py"):
        path.write_text("x")
    with pytest.raises(BadInput, match=r"would both become x\.py"):
        packed(tmp_path / "job", "x.py", "../x.py")


def test_an_archive_over_the_limit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "noise").write_bytes(os.urandom(1_200_000))
    assert packed(tmp_path, "noise", limit=2)
    with pytest.raises(
        BadInput, match=r"steps\.0\.sandbox: the files pack to over 1 MiB; put large ones into a storage"
    ):
        packed(tmp_path, "noise", limit=1)


def test_a_step_without_files_sends_none(tmp_path: Path) -> None:
    assert pack_sandboxes(tmp_path / "job.yaml", campaign(), 10) == {}
