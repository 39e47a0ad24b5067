"""Container images made of this machine's own programs: no registry is asked."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

PROGRAMS = ("sh", "cat", "env", "id", "ls", "sleep", "touch", "mkdir", "setsid", "true")


def make_folder(folder: Path) -> Path:
    """A root file system with a shell and a few programs, and the libraries that they want."""
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp"):
        (folder / name).mkdir(parents=True)
    for name in PROGRAMS:
        found = shutil.which(name)
        assert found, f"this machine has no {name}"
        shutil.copy(found, folder / "bin" / name)
        linked = subprocess.run(["ldd", found], capture_output=True, text=True, check=True).stdout
        for library in re.findall(r"(/\S+) \(0x", linked):
            target = folder / library.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, target)
    (folder / "etc" / "marker").write_text("of the image\n")
    return folder


def make_archive(folder: Path, store: Path, archive: Path) -> Path:
    """The same as an OCI archive, by podman with a storage of its own."""
    brief = tempfile.mkdtemp()  # podman takes no long path for what it has while it runs
    client = ["podman", "--root", str(store / "root"), "--runroot", f"{brief}/run", "--tmpdir", f"{brief}/tmp"]
    variables = {"PATH": os.environ["PATH"], "HOME": str(store), "XDG_RUNTIME_DIR": brief}

    def podman(*words: str) -> None:
        done = subprocess.run([*client, *words], env=variables, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    store.mkdir()
    packed = store / "image.tar"
    subprocess.run(["tar", "-C", str(folder), "-cf", str(packed), "."], check=True)
    podman("import", "--quiet", str(packed), "localhost/penstock-test")
    podman("save", "--quiet", "--format", "oci-archive", "--output", str(archive), "localhost/penstock-test")
    podman("rmi", "--all", "--force")
    shutil.rmtree(brief)
    return archive
