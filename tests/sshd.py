"""A private OpenSSH server on this machine: a login node that we may enter as ourselves, with a key of our own."""

from __future__ import annotations

import getpass
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.servers import STARTUP, Server, find_program, free_port, server_folder

_CONF = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host_key
PidFile none
AuthorizedKeysFile {folder}/client_key.pub
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UsePAM no
PrintMotd no
MaxStartups 100
LogLevel VERBOSE
"""


class SshServer(Server):
    """What logs in with `options` gets a shell of this user, whose environment has `variables` besides the usual."""

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        super().__init__(folder)
        self.port = free_port()
        for key in ("host_key", "client_key"):
            program = find_program(["ssh-keygen"], "openssh-client")
            command = [program, "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)]
            subprocess.run(command, check=True, timeout=STARTUP)
        set_env = " ".join(f'"{name}={value}"' for name, value in variables.items())
        conf = _CONF.format(port=self.port, folder=folder)
        (folder / "sshd_config").write_text(f"{conf}SetEnv {set_env}\n")  # the first line of that name alone counts
        public = (folder / "host_key.pub").read_text()
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {public}")

    @property
    def options(self) -> dict[str, str | int]:
        """What a site queue says to get in."""
        return {
            "host": "127.0.0.1",
            "port": self.port,
            "user": getpass.getuser(),
            "identity_file": str(self.folder / "client_key"),
            "known_hosts_file": str(self.folder / "known_hosts"),
            "config_file": os.devnull,
        }

    @property
    def logins(self) -> int:
        """How often somebody has logged in so far."""
        return self.log.read_text(errors="replace").count("Accepted publickey")

    def command(self) -> list[str]:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # it insists on this folder
        program = find_program(["sshd"], "openssh-server")
        return [str(Path(program).resolve()), "-D", "-e", "-f", str(self.folder / "sshd_config")]

    def answers(self) -> bool:
        command = [find_program(["ssh-keyscan"], "openssh-client"), "-p", str(self.port), "127.0.0.1"]
        return subprocess.run(command, check=False, capture_output=True, timeout=STARTUP).stdout != b""

    def _end(self, signum: int) -> None:
        """Its sessions too, which would outlive it."""
        sessions = psutil.Process(self.pid).children(recursive=True) if self.is_running else []
        super()._end(signum)
        for session in sessions:
            with suppress(psutil.NoSuchProcess):
                session.kill()


@contextmanager
def running_sshd(variables: Mapping[str, str]) -> Iterator[SshServer]:
    """An sshd for as long as the block lasts; `variables` of the environment that its users get."""
    with server_folder("sshd") as folder, SshServer(folder, variables) as server:
        yield server
