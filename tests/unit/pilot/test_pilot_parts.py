"""Parts of the pilot that decide without a process or a network."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from pipeline.pilot import archive, folders, limits, transfer
from pipeline.pilot.client import Backoff
from pipeline.pilot.ledger import Ledger
from pipeline.pilot.node import microarchitecture_level

V2 = "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3"
V3 = V2 + " abm avx avx2 bmi1 bmi2 f16c fma movbe xsave"


@pytest.mark.parametrize(
    ("flags", "level"),
    [
        ("sse2", "x86-64-v1"),
        (V2, "x86-64-v2"),
        (V3, "x86-64-v3"),
        (V3.replace(" popcnt", ""), "x86-64-v1"),
        (V3 + " avx512f avx512bw avx512cd avx512dq avx512vl", "x86-64-v4"),
    ],
)
def test_a_level_needs_all_flags_of_the_levels_below(flags: str, level: str) -> None:
    assert microarchitecture_level(frozenset(flags.split())) == level


GIVEN = limits.Limits(wall_time=60, memory=100, disk=50, tasks=1100)


@pytest.mark.parametrize(
    ("used", "breach"),
    [
        ((60.0, 1.0, 100, 50, 1100), None),
        ((61.2, 1.0, 1, 1, 1), ("wall_time_limit", "wall-time limit: ran 61 s of 60 s")),
        ((1.0, 1.0, 130, 1, 1), ("memory_limit", "memory limit: used 130 MiB of 100 MiB")),
        ((1.0, 1.0, 1, 51, 1), ("disk_limit", "disk limit: used 51 MiB of 50 MiB")),
        ((1.0, 1.0, 1, 1, 1101), ("process_limit", "process limit: had 1101 processes, may have 1100")),
    ],
)
def test_a_breach_names_what_was_used_and_what_was_given(
    used: tuple[float, float, int, int, int], breach: tuple[str, str] | None
) -> None:
    assert limits.breach(GIVEN, limits.Usage(*used)) == (None if breach is None else limits.Breach(*breach))


@pytest.mark.parametrize(
    ("before", "now", "pause"),
    [
        ((1.0, 0.0, 10, 1, 1), (2.0, 0.0, 11, 1, 1), limits.SLOW),
        ((1.0, 0.0, 10, 1, 1), (2.0, 0.0, 45, 1, 1), limits.QUICK),
        ((1.0, 0.0, 10, 1, 1), (1.1, 0.0, 10, 4, 1), limits.QUICK),
        ((1.0, 0.0, 10, 1, 1), (2.0, 0.0, 10, 1, 300), limits.QUICK),
        ((1.0, 0.0, 99, 49, 1), (2.0, 0.0, 99, 49, 1), limits.SLOW),
        ((58.5, 0.0, 1, 1, 1), (59.5, 0.0, 1, 1, 1), 0.5),
    ],
    ids=["calm", "memory", "disk", "processes", "high-but-calm", "time"],
)
def test_what_could_reach_a_limit_soon_is_looked_at_soon(
    before: tuple[float, float, int, int, int], now: tuple[float, float, int, int, int], pause: float
) -> None:
    assert limits.pause(GIVEN, limits.Usage(*before), limits.Usage(*now)) == pause


def test_an_archive_keeps_the_end_of_logs_and_leaves_out_what_does_not_fit(tmp_path: Path) -> None:
    logs, folder = tmp_path / "logs", tmp_path / "job"
    logs.mkdir()
    (folder / "sub").mkdir(parents=True)
    (logs / "stdout.txt").write_bytes(b"a" * archive.LOG_LIMIT + b"end")
    (folder / "big.dat").write_bytes(bytes(archive.LIMIT))
    (folder / "sub" / "small.dat").write_bytes(b"small")
    (folder / "escape.dat").symlink_to("/etc/hostname")
    archive.pack(str(tmp_path / "a.tar.gz"), str(logs), str(folder), ["**/*.dat", "/etc/hostname", "../*/*"])
    with tarfile.open(tmp_path / "a.tar.gz") as packed:
        sizes = {entry.name: entry.size for entry in packed}
        end = packed.extractfile("stdout.txt")
        assert end is not None
        assert end.read().endswith(b"end")
    names = {"stdout.txt": archive.LOG_LIMIT, "stderr.txt": 0, "sub/small.dat": 5, "left-out.txt": len("big.dat\n")}
    assert sizes == names


def test_only_absolute_file_urls_are_copied() -> None:
    assert transfer.local_path("file:///data/a%20b") == "/data/a b"
    assert transfer.local_path("file://localhost/data") == "/data"
    for url in ("file://elsewhere/data", "file:relative", "https://x/y", "/data"):
        with pytest.raises(transfer.TransferFailed, match="can only copy"):
            transfer.local_path(url)


def test_a_copy_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    def give_up() -> None:
        raise KeyboardInterrupt

    (tmp_path / "source").write_bytes(b"content")
    target = tmp_path / "storage" / "target"
    with pytest.raises(KeyboardInterrupt):
        transfer.store(str(tmp_path / "source"), target.as_uri(), give_up)
    assert list(target.parent.iterdir()) == []


def test_a_back_off_grows_to_its_cap_and_heeds_the_server() -> None:
    backoff = Backoff(first=1.0, cap=8.0)
    waits = [backoff.next() for _ in range(6)]
    assert all(low <= wait <= 2 * low for low, wait in zip([0.5, 1, 2, 4, 4, 4], waits, strict=True))
    assert backoff.next(at_least=30.0) == 30.0
    backoff.reset()
    assert backoff.next() <= 1.0


def test_a_ledger_gives_each_attempt_once_and_names_orphans_once(tmp_path: Path) -> None:
    first, later = Ledger(str(tmp_path), 7), Ledger(str(tmp_path), 7)
    assert first.claim((1, 1))
    assert first.claim((2, 1))
    assert not later.claim((1, 1))
    assert later.orphans() == []
    first.close((1, 1))
    first._open[2, 1].close()  # what the kernel does when its process dies
    assert Ledger(str(tmp_path), 8).orphans() == []
    assert later.orphans() == [(2, 1)]
    assert later.orphans() == []


def test_what_a_payload_has_locked_is_removed(tmp_path: Path) -> None:
    """Seen with effect where tests do not run as root."""
    inner = tmp_path / "job" / "cache" / "inner"
    inner.mkdir(parents=True)
    (inner / "file").write_text("x")
    (tmp_path / "kept").mkdir()
    (inner / "link").symlink_to(tmp_path / "kept")
    for folder in (inner, inner.parent):
        folder.chmod(0o500)
    folders.remove(str(tmp_path / "job"))
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
