"""Calls of a schedd, each a child process that ends in time whatever the schedd does.

Measured on one core: 0.1 s of processor time a call, most of it to load the bindings; the schedd answers in 20 ms.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from executors.pilots.batch.credentials import Credential
from executors.pilots.batch.environment import outsiders_environment
from pipeline.errors import BadSettings, BatchSystemUnavailable

FOLDER = "htcondor-calls"
_STALE = 3_600.0
"""Seconds after which the folder of a call whose process was killed is swept up."""
_COMPLAINT = 400
_LOG_DATE = re.compile(r"^\d\d/\d\d/\d\d \d\d:\d\d:\d\d (\(\w+:\d+\) )?")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a schedd is: `address` itself, or `schedd`'s name at a `collector`; nothing: this machine's."""

    schedd: str
    collector: str
    address: str

    def __str__(self) -> str:
        if self.address:
            return f"HTCondor schedd at {self.address}"
        name = self.schedd or "of this machine"
        return f"HTCondor schedd {name}" + (f" of {self.collector}" if self.collector else "")


@dataclass(frozen=True, slots=True)
class Schedd:
    """A schedd as we reach it. `config`: settings of HTCondor's own for these calls."""

    address: Address
    data_dir: Path
    timeout: float
    credential: Credential | None
    config: Mapping[str, str]

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """A folder that a call runs in, which we alone may read: its files are gone afterwards."""
        root = self.data_dir / FOLDER
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            _sweep(root)
            made = Path(tempfile.mkdtemp(dir=root))
        except OSError as error:
            raise BatchSystemUnavailable(f"{self.address}: no folder for its files in {root}: {error}") from error
        try:
            yield made
        finally:
            shutil.rmtree(made, ignore_errors=True)

    def call(self, name: str, folder: Path, **given: object) -> Any:
        """What the child answers. Raises BatchSystemUnavailable when it says what went wrong, or nothing in time."""
        order = {
            "call": name,
            "folder": str(folder),
            "parent": os.getpid(),
            "config": list(self.config),
            **asdict(self.address),
            **given,
        }
        done = self._run(json.dumps(order), self._environment(folder))
        try:
            said = json.loads(done.stdout)
        except ValueError:
            raise BatchSystemUnavailable(
                f"{self.address}: the call {name!r} ended with {done.returncode}, without an answer{_last(done.stderr)}"
            ) from None
        if "error" in said:
            raise BatchSystemUnavailable(f"{self.address}: {' '.join(said['error'].split())}{_last(done.stderr)}")
        return said["answer"]

    def _run(self, order: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                [sys.executable, "-I", "-m", "executors.pilots.batch.htcondor_call"],
                input=order, env=environment, capture_output=True, text=True, errors="replace", check=False,
                timeout=self.timeout,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise BatchSystemUnavailable(f"{self.address} did not answer within {self.timeout:g} s") from None
        except OSError as error:
            raise BatchSystemUnavailable(f"{self.address}: its client can't be started: {error}") from error

    def _environment(self, folder: Path) -> dict[str, str]:
        """No token that we happen to have, but the queue's, in a folder of its own, as the bindings want it."""
        clean = {name: value for name, value in outsiders_environment().items() if not name.startswith("BEARER_")}
        config = {"TOOL_DEBUG": "D_ERROR"}
        if self.credential is not None:
            tokens = folder / "tokens"
            tokens.mkdir(mode=0o700, exist_ok=True)
            file = tokens / "token"
            file.touch(mode=0o600)
            file.write_text(self.credential.current().text)
            config |= {"SEC_TOKEN_DIRECTORY": str(tokens), "SCITOKENS_FILE": str(file)}
            config |= {"SEC_CLIENT_AUTHENTICATION_METHODS": "IDTOKENS,SCITOKENS"}
        return {**clean, **{f"_CONDOR_{name}": value for name, value in (config | dict(self.config)).items()}}


def check_bindings(label: str) -> None:
    """Raises BadSettings where the bindings are not installed."""
    if importlib.util.find_spec("htcondor2") is None:
        raise BadSettings(
            f"queue {label}: the batch system htcondor needs HTCondor's Python bindings; run: "
            "pip install 'penstock[htcondor]'"
        )


def _sweep(root: Path) -> None:
    horizon = time.time() - _STALE
    for folder in root.iterdir():
        try:
            if folder.stat().st_mtime < horizon:
                shutil.rmtree(folder, ignore_errors=True)
        except FileNotFoundError:
            continue  # another call's, which has just ended


def _last(complaint: str) -> str:
    """The last line that the bindings wrote, which mostly says more than their error."""
    lines = [_LOG_DATE.sub("", line) for line in complaint.splitlines()]
    lines = [line for line in lines if line.strip() and not line.startswith("Warning:")]
    return f" ({lines[-1][-_COMPLAINT:]})" if lines else ""
