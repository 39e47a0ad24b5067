"""A heart beats on whatever its worker's executor does to the process that they share."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.runtime import heart
from pipeline.runtime.heart import Heart, Page
from tests.waiting import eventually


class Unseen:
    """The folder of a process's threads when nobody may look into it."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.looks = 0

    def iterdir(self) -> Iterator[Path]:
        self.looks += 1
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EMFILE, "Too many open files"),
        PermissionError(errno.EACCES, "a security module says no"),
        MemoryError(),
    ],
    ids=repr,
)
def test_a_heart_that_cannot_look_beats_on_and_calls_nobody_deadlocked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    threads = Unseen(error)
    monkeypatch.setattr(heart, "_TASKS", threads)
    monkeypatch.setattr(heart, "INTERVAL", 0.01)
    page = Page(tmp_path / "heart")
    beating = Heart(page)
    with beating.working():
        beating.start()
        eventually(lambda: threads.looks > 2)
        before = page.read().beat
        eventually(lambda: page.read().beat > before)
        assert page.read().still_since == 0.0


def test_a_page_has_its_room_on_the_disk_before_anybody_writes(tmp_path: Path) -> None:
    """To write to a map where there is none kills the process by a signal."""
    path = tmp_path / "heart"
    Page(path)
    assert path.stat().st_blocks * 512 >= mmap.PAGESIZE


def test_a_page_for_which_there_is_no_room_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_asked: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        Page(tmp_path / "heart")
