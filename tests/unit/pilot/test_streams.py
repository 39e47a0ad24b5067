"""What is kept of a payload's output."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from pipeline.pilot.streams import LIMIT, MOST, Stream

MARK = re.compile(rb"\n\[penstock: (\d+) bytes are left out here\]\n")


def written(path: Path, total: int, chunk: int) -> list[int]:
    """A stream gets numbered lines, `total` bytes of them; the sizes that its file had meanwhile."""
    stream = Stream(str(path))
    sizes = []
    for start in range(0, total, chunk):
        lines = b"".join(b"%07d\n" % number for number in range(start // 8, min(start + chunk, total) // 8))
        os.write(stream.writer, lines)
        while stream.copy():
            sizes.append(path.stat().st_size)
    stream.started()
    stream.finish()
    return sizes


@pytest.mark.parametrize("total", [LIMIT + 8, MOST, MOST + (1 << 16), 3 * MOST])
def test_of_much_output_head_and_tail_stay_and_the_file_is_never_large(tmp_path: Path, total: int) -> None:
    sizes = written(tmp_path / "log", total, 1 << 14)
    assert max(sizes) <= MOST + (1 << 18)
    kept = (tmp_path / "log").read_bytes()
    assert len(kept) <= LIMIT
    found = MARK.search(kept)
    assert found is not None
    head, tail = kept[: found.start()], kept[found.end() :]
    assert head.startswith(b"0000000\n0000001\n")
    assert tail.endswith(b"%07d\n" % (total // 8 - 1))
    assert len(head) + int(found[1]) + len(tail) == total


@pytest.mark.parametrize("total", [0, 8, LIMIT])
def test_little_output_stays_as_it_is(tmp_path: Path, total: int) -> None:
    written(tmp_path / "log", total, 1 << 14)
    assert (tmp_path / "log").stat().st_size == total


def test_a_full_disk_neither_ends_nor_blocks_a_payload() -> None:
    stream = Stream("/dev/full")
    for _ in range(100):
        os.write(stream.writer, bytes(1 << 15))
        while stream.copy():
            continue
    stream.started()
    stream.finish()
