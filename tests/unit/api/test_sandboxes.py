"""The sandbox store, in a folder and in memory."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest

from pipeline.errors import BadSettings, NotFound, StorageUnavailable
from pipeline.sandboxes import Sandboxes

DIGEST = "ab" * 32


@pytest.fixture(params=["file", "memory"])
def sandboxes(request: pytest.FixtureRequest, tmp_path: Path) -> Sandboxes:
    return Sandboxes(f"file://{tmp_path}/sandboxes" if request.param == "file" else f"memory://{uuid4().hex}")


def test_a_sandbox_is_there_for_its_vo_alone(sandboxes: Sandboxes) -> None:
    sandboxes.put("one", DIGEST, b"content")
    assert sandboxes.exists("one", DIGEST)
    assert sandboxes.get("one", DIGEST) == b"content"
    assert not sandboxes.exists("two", DIGEST)
    with pytest.raises(NotFound, match=DIGEST):
        sandboxes.get("two", DIGEST)
    sandboxes.remove("one", DIGEST)
    sandboxes.remove("one", DIGEST)
    assert not sandboxes.exists("one", DIGEST)


def test_the_newest_archive_is_that_of_the_highest_attempt(sandboxes: Sandboxes) -> None:
    assert sandboxes.newest_archive("one", 5) is None
    for attempt in (2, 10, 9):
        sandboxes.put_archive("one", 5, attempt, b"of %d" % attempt)
    assert sandboxes.newest_archive("one", 5) == (10, b"of 10")
    sandboxes.put_archive("one", 5, 10, b"again")
    assert sandboxes.get_archive("one", 5, 10) == b"again"
    assert sandboxes.newest_archive("one", 6) is None
    sandboxes.remove_archives("one", 5)
    assert sandboxes.newest_archive("one", 5) is None


def test_a_write_leaves_no_partial_file_behind(tmp_path: Path) -> None:
    Sandboxes(f"file://{tmp_path}").put_archive("one", 5, 1, b"content")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["1.tar.gz"]


def test_a_store_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("a file where a folder should be")
    with pytest.raises(StorageUnavailable, match="PENSTOCK_SANDBOX_URL"):
        Sandboxes(f"file://{tmp_path}").put("one", DIGEST, b"content")


def test_an_unknown_protocol_is_a_bad_setting() -> None:
    with pytest.raises(BadSettings, match="PENSTOCK_SANDBOX_URL"):
        Sandboxes("nothing://x")


def test_what_a_pilot_wrote_last_is_kept_for_its_vo(sandboxes: Sandboxes) -> None:
    sandboxes.put_pilot_output("one", 7, "begun", "")
    sandboxes.put_pilot_output("one", 7, "begun\nended\n", "it is broken: ü\n")
    assert sandboxes.get_pilot_output("one", 7) == ("begun\nended\n", "it is broken: ü\n")
    with pytest.raises(NotFound, match="pilot 7"):
        sandboxes.get_pilot_output("two", 7)
    sandboxes.remove_pilot_output("one", 7)
    sandboxes.remove_pilot_output("one", 7)
    with pytest.raises(NotFound, match="pilot 7"):
        sandboxes.get_pilot_output("one", 7)
