"""What is left mounted in a folder is taken away, and nothing else."""

from __future__ import annotations

import subprocess
from pathlib import Path

from pipeline.pilot import folders, mounts


def test_mounts_below_a_folder_go_and_what_they_showed_stays(tmp_path: Path) -> None:
    shown, folder = tmp_path / "shown", tmp_path / "with a space"
    shown.mkdir()
    (shown / "file").write_text("kept")
    inner = folder / "inner"
    inner.mkdir(parents=True)
    for target in (folder / "inner", folder / "inner"):  # one on top of the other
        subprocess.run(["mount", "--bind", str(shown), str(target)], check=True)
    mounts.detach_below(str(folder))
    assert str(tmp_path) not in Path("/proc/mounts").read_text()
    folders.remove(str(folder))
    assert not folder.exists()
    assert (shown / "file").read_text() == "kept"
