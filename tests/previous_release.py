"""The code of the release before this one, from git's history: it is run beside ours, in this environment's packages.

Every release begins with another version in pyproject.toml. The previous release is the last commit that has an earlier
one, wherever in the history it stands.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.versions import numbers

ROOT = Path(__file__).parents[1]
_NO_HISTORY = (
    "the previous release is run beside this one, and its code comes from git's history, which {why}; "
    "work in a clone with its whole history: `git fetch --unshallow --tags`, or clone again without --depth"
)


@dataclass(frozen=True, slots=True)
class Release:
    """A release's code in a folder of its own."""

    version: str
    commit: str
    folder: Path

    def command(self, *words: str) -> list[str]:
        """Run `penstock WORDS` of this release; start it in `folder`, with `variables`."""
        return [sys.executable, "-m", "pipeline.cli", *words]

    @property
    def variables(self) -> Mapping[str, str]:
        """What finds its modules and its entry points before those of this environment."""
        return {"PYTHONPATH": str(self.folder)}


def this_release() -> Release:
    """The code that is being tested."""
    return Release(_version((ROOT / "pyproject.toml").read_text()), "", ROOT)


def previous_release(folder: Path) -> Release:
    """The last release before this one, laid out in `folder`. AssertionError that says what to do without a history."""
    current = this_release().version
    earlier = ((commit, version) for commit, version in _versions() if numbers(version) < numbers(current))
    commit, version = next(earlier, ("", ""))
    assert commit, _NO_HISTORY.format(why=f"knows no version before {current}")
    with tarfile.open(fileobj=io.BytesIO(_git("archive", "--format=tar", commit))) as archive:
        archive.extractall(folder, filter="data")
    _lay_out_metadata(folder, tomllib.loads((folder / "pyproject.toml").read_text())["project"])
    return Release(version, commit, folder)


def _lay_out_metadata(folder: Path, project: Mapping[str, Any]) -> None:
    """As an installation leaves them: what says which version runs, and what is found by entry point."""
    metadata = folder / f"penstock-{project['version']}.dist-info"
    metadata.mkdir()
    head = f"Metadata-Version: 2.1\nName: penstock\nVersion: {project['version']}\n"
    (metadata / "METADATA").write_text(head)
    groups = {"console_scripts": project.get("scripts", {}), **project.get("entry-points", {})}
    lines = [f"[{name}]\n" + "".join(f"{key} = {target}\n" for key, target in groups[name].items()) for name in groups]
    (metadata / "entry_points.txt").write_text("\n".join(lines))


def _versions() -> Iterator[tuple[str, str]]:
    """Every commit with the version that it has, the newest first."""
    commits = _git("rev-list", "--date-order", "HEAD").decode().split()
    asked = "".join(f"{commit}:pyproject.toml\n" for commit in commits)
    blobs = _git("cat-file", "--batch-check=%(objectname)", given=asked).decode().splitlines()
    known: dict[str, str] = {}
    for commit, blob in zip(commits, blobs, strict=True):
        if blob.endswith("missing"):
            continue  # from before there was a package
        if blob not in known:
            known[blob] = _version(_git("cat-file", "blob", blob).decode())
        yield commit, known[blob]


def _version(pyproject: str) -> str:
    return str(tomllib.loads(pyproject)["project"]["version"])


def _git(*words: str, given: str = "") -> bytes:
    assert (ROOT / ".git").exists(), _NO_HISTORY.format(why="is not here")
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, input=given.encode(), capture_output=True, check=False)
    except FileNotFoundError:
        raise AssertionError(_NO_HISTORY.format(why="can't be read, since git is not installed")) from None
    assert done.returncode == 0, _NO_HISTORY.format(why=f"can't be read ({done.stderr.decode().strip()})")
    return done.stdout
