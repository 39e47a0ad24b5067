"""Each command of the tutorial and of the how-to pages works, in the order in which a reader types it."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.store.database import Database
from pipeline.store.messages import Burial, bury
from schemas.messages import FilesDue, Message
from tests.acceptance.system import System, penstock_up
from tests.documentation import PAGES, ROOT, Block, blocks
from tests.waiting import eventually

ORDER = ("docs/tutorial.md", "docs/how-to/when-jobs-fail.md", "docs/how-to/shares-and-limits.md",
         "docs/how-to/why-does-my-job-wait.md", "docs/how-to/operate.md", "docs/how-to/scale.md",
         "docs/how-to/monitor.md", "docs/how-to/pilots.md", "docs/how-to/drain.md",
         "docs/how-to/troubleshoot.md", "docs/how-to/upgrade.md", "docs/how-to/mysql-and-redis.md",
         "docs/how-to/add-a-consumer.md")  # fmt: skip
"""The pages name campaigns and jobs by the ids that they get when read in this order."""
LIMIT = 120.0
"""Seconds that one command may take."""


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[System]:
    """A reader with the examples and the files that the pages show, and `penstock up` with the package of one."""
    folder = tmp_path / "tree"
    folder.mkdir()
    (folder / "examples").symlink_to(ROOT / "examples")
    for page in ORDER:
        lay_out(list(blocks(ROOT / page)), folder)
    with penstock_up(tmp_path / "system", {"PYTHONPATH": str(folder)}) as system:
        yield system


def lay_out(shown: list[Block], folder: Path) -> None:
    """The files of a page; a package with entry points as pip would have installed it."""
    for block in shown:
        if block.path is not None:
            target = folder / block.path
            target.parent.mkdir(exist_ok=True)
            target.write_text(block.body)
    for block in shown:
        if block.language == "toml":
            groups = tomllib.loads(block.body)["project"]["entry-points"]
            lines = [f"[{group}]\n{name} = {target}" for group in groups for name, target in groups[group].items()]
            metadata = folder / "replication-1.dist-info"
            metadata.mkdir()
            (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: replication\nVersion: 1\n")
            (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")


def bury_one(system: System) -> None:
    """Dead letter 1, for the page that tells what to do with it."""
    database = Database(f"sqlite:///{system.data_dir / 'penstock.db'}")
    message = Message.about(FilesDue(file_ids=(1,)), now=database.now())
    burial = Burial("data", str(message.id), "FilesDue", message.encode(), "boom", 5, "Traceback: here", message)
    database.transact(lambda tx: bury(tx, [burial]))
    database.close()


def run(command: str, block: Block, system: System, folder: Path) -> None:
    """One command as a reader types it, in a shell, beside the examples."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=system.environment | {"PATH": path},
        capture_output=True, text=True, timeout=LIMIT, check=False,
    )  # fmt: skip
    assert done.returncode == block.exit_code, f"{block.page}: {command}\n{done.stdout}{done.stderr}\n{system.logs()}"


@pytest.mark.timeout(900)  # some seventy commands, each a process of its own
def test_every_command_of_the_tutorial_and_the_how_tos_works(reader: System, tmp_path: Path) -> None:
    bury_one(reader)
    folder = tmp_path / "tree"
    for page in ORDER:
        for block in blocks(ROOT / page):
            for command in block.commands() if block.is_run else ():
                if command.startswith("penstock "):
                    run(command, block, reader, folder)
    assert (folder / "build" / "tutorial-results" / "zmumu.png").read_bytes().startswith(b"\x89PNG")
    # the package of the last page has done its work
    eventually(lambda: "replicas_wanted" in (reader.folder / "up-0.log").read_text(), within=30.0)


def test_what_is_not_run_says_why_and_other_pages_run_nothing() -> None:
    """A page that is forgotten in ORDER would only seem to be tested."""
    forgotten = {
        block.page
        for page in PAGES
        for block in blocks(page)
        if block.is_run and any(command.startswith("penstock ") for command in block.commands())
    } - set(ORDER)
    assert forgotten == set()
