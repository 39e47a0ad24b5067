"""A shell on a login node over OpenSSH: one login serves many commands (connection sharing), and nobody is asked
anything (batch mode)."""

from __future__ import annotations

import hashlib
import os
import shlex
import tempfile
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from executors.pilots.batch.command_shell import Finished, run_program
from pipeline.errors import BatchSystemUnavailable

PERSIST = 300
"""Seconds that a connection stays open after its last command: longer than a cycle of provisioning."""
_SOCKET_PATH = 90
"""Bytes that the path of a socket may have: 108, less what ssh appends while it makes one."""
_FAILED = 255
"""What ssh ends with when itself, not the command, has failed."""

Word = Annotated[str, Field(min_length=1, pattern=r"^[^-\s][^\s]*$")]
"""No option of ssh's by accident."""


class SshOptions(BaseModel):
    """How a login node is reached. What is left out is as ssh itself has it, its own configuration included."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: Word
    port: Annotated[int, Field(ge=1, le=65_535)] | None = None
    user: Word | None = None
    identity_file: Path | None = None
    """A private key without a passphrase, or with an agent that holds it."""
    known_hosts_file: Path | None = None
    """What the node's key must be in; others are then not asked."""
    config_file: Path | None = None
    """Instead of that of the user and of the machine."""
    options: dict[str, str | int] = {}
    """More of ssh_config(5), such as ProxyJump."""

    def words(self) -> list[str]:
        """What they are on ssh's command line."""
        given = {"BatchMode": "yes", "StrictHostKeyChecking": "yes", "LogLevel": "ERROR"}
        given |= {"ForwardAgent": "no", "ForwardX11": "no"}
        if self.identity_file is not None:
            given |= {"IdentityFile": _quoted(self.identity_file), "IdentitiesOnly": "yes"}
        if self.known_hosts_file is not None:
            given |= {"UserKnownHostsFile": _quoted(self.known_hosts_file), "GlobalKnownHostsFile": "/dev/null"}
        given |= {name: str(value) for name, value in self.options.items()}
        words = [word for name, value in given.items() for word in ("-o", f"{name}={value}")]
        words += ["-F", str(self.config_file)] if self.config_file is not None else []
        words += ["-p", str(self.port)] if self.port is not None else []
        words += ["-l", self.user] if self.user is not None else []
        return words


class SshShell:
    """A shell of a login node's user. Shells with the same options share a connection, over processes too."""

    def __init__(self, options: SshOptions, data_dir: Path) -> None:
        self._options = options
        self._data_dir = data_dir

    def run(self, text: str, given: bytes = b"", *, seconds: float) -> Finished:
        """As the port says; a failure of ssh itself is BatchSystemUnavailable too."""
        sharing = {
            "ControlMaster": "auto",
            "ControlPersist": str(PERSIST),
            "ControlPath": _quoted(self._socket()),
            "ConnectTimeout": str(max(1, int(seconds))),
            "ServerAliveInterval": "15",
        }
        words = [word for name, value in sharing.items() for word in ("-o", f"{name}={value}")]
        # first come, first served: what an operator says wins
        command = ["ssh", "-T", *self._options.words(), *words, "--", self._options.host]
        try:
            done = run_program((*command, f"/bin/sh -c {shlex.quote(text)}"), given, seconds=seconds)
        except BatchSystemUnavailable as failure:
            raise BatchSystemUnavailable(f"login node {self._options.host}: {failure}") from failure
        if done.code == _FAILED:
            raise BatchSystemUnavailable(f"login node {self._options.host}: {done.words}")
        return done

    def _socket(self) -> Path:
        """Of the shared connection: in the data directory where a socket's path may be that long."""
        name = hashlib.sha256(repr([*self._options.words(), self._options.host]).encode()).hexdigest()[:16]
        folder = self._data_dir / "ssh"
        if len(os.fsencode(folder / name)) > _SOCKET_PATH:
            place = hashlib.sha256(os.fsencode(folder)).hexdigest()[:8]
            folder = Path(tempfile.gettempdir()) / f"penstock-ssh-{os.getuid()}-{place}"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = folder.stat()
        except OSError as failure:
            raise BatchSystemUnavailable(f"no folder for connections of ssh: {failure}") from failure
        if found.st_uid != os.getuid() or found.st_mode & 0o022:
            raise BatchSystemUnavailable(f"{folder}, for connections of ssh, belongs to others too: remove it")
        return folder / name


def _quoted(path: Path) -> str:
    """As ssh_config(5) reads a path: no token, and spaces in quotes."""
    return '"' + str(path).replace("%", "%%") + '"'
