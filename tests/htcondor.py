"""A private real HTCondor pool for tests: collector, negotiator, schedd and startd on one port of 127.0.0.1.

Each pool has folders, a port and keys of its own, a mount namespace, and a keeper that ends all of its processes:
nothing stays mounted or running when the run is killed.
"""

from __future__ import annotations

import itertools
import os
import secrets
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from tests.htcondor_root import kept, pool_root
from tests.servers import Server, find_program, free_port, server_folder
from tests.waiting import eventually

DOMAIN = "penstock.test"
SCHEDD = f"schedd@{DOMAIN}"
USER = "nobody"
"""Jobs run as this user."""

_START = """
root=$1 folder=$2
shift 2
if [ "$root" != / ]; then
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    mount --bind "$folder/tmp" "$root/tmp"
    for file in /etc/hosts /etc/resolv.conf; do mount --bind "$file" "$root$file"; done
    for shared in "$folder" "$@"; do
        mkdir -p "$root$shared"
        mount --bind "$shared" "$root$shared"
    done
fi
unset TMPDIR
exec chroot "$root" condor_master -f
"""

_CONFIG = """
LOCAL_DIR = {folder}
LOG = $(LOCAL_DIR)/log
LOCK = $(LOCAL_DIR)/lock
RUN = $(LOCAL_DIR)/run
SPOOL = $(LOCAL_DIR)/spool
EXECUTE = $(LOCAL_DIR)/execute
CRED_STORE_DIR = $(LOCAL_DIR)/cred
RELEASE_DIR = {release}
BIN = $(RELEASE_DIR)/bin
SBIN = $(RELEASE_DIR)/sbin
LIB = $(RELEASE_DIR)/lib/condor
LIBEXEC = $(RELEASE_DIR)/libexec/condor
SHARE = $(RELEASE_DIR)/share/condor
CONDOR_HOST = 127.0.0.1
COLLECTOR_HOST = 127.0.0.1:{port}
SHARED_PORT_PORT = {port}
NETWORK_INTERFACE = 127.0.0.1
BIND_ALL_INTERFACES = false
NETWORK_HOSTNAME = localhost
ENABLE_IPV6 = false
SCHEDD_NAME = {schedd}
use ROLE: CentralManager
use ROLE: Submit
use ROLE: Execute

UID_DOMAIN = {domain}
TRUST_DOMAIN = {domain}
use security:recommended_v9_0
SEC_DEFAULT_AUTHENTICATION = REQUIRED
SEC_DEFAULT_AUTHENTICATION_METHODS = FS, IDTOKENS
SEC_PASSWORD_DIRECTORY = $(LOCAL_DIR)/keys
SEC_TOKEN_POOL_SIGNING_KEY_FILE = $(LOCAL_DIR)/keys/POOL
SEC_TOKEN_SYSTEM_DIRECTORY = $(LOCAL_DIR)/tokens
ALLOW_DAEMON = condor@$(UID_DOMAIN)
ALLOW_NEGOTIATOR = condor@$(UID_DOMAIN)
ALLOW_ADMINISTRATOR = root@$(UID_DOMAIN) condor@$(UID_DOMAIN)
ALLOW_WRITE = *
ALLOW_READ = *

# what a namespace or a container does not let it do
MOUNT_UNDER_SCRATCH =
BASE_CGROUP =
CGROUP_MEMORY_LIMIT_POLICY = none
USE_PID_NAMESPACES = false
ENABLE_KERNEL_TUNING = false

# a node of so many cores, whatever the machine has
NUM_CPUS = {cores}
MEMORY = 20480
RUNBENCHMARKS = 0

# seconds where a pool of thousands of nodes has minutes
SCHEDD_INTERVAL = 1
SCHEDD_MIN_INTERVAL = 1
NEGOTIATOR_INTERVAL = 1
NEGOTIATOR_MIN_INTERVAL = 1
NEGOTIATOR_CYCLE_DELAY = 1
PERIODIC_EXPR_INTERVAL = 2
UPDATE_INTERVAL = 2
MASTER_UPDATE_INTERVAL = 5
STARTER_INITIAL_UPDATE_INTERVAL = 1
STARTER_UPDATE_INTERVAL = 5
SHADOW_QUEUE_UPDATE_INTERVAL = 5
include ifexist : $(LOCAL_DIR)/extra
"""


class HtcondorPool(Server):
    """A pool of one node. Its jobs see `folders`, at the same paths, and no others of this machine's."""

    def __init__(self, folder: Path, *, folders: Sequence[Path] = (), cores: int = 20) -> None:
        super().__init__(folder)
        self.port = free_port()
        self._root = pool_root()
        self._folders = folders
        self._versions = itertools.count(1)
        self._cores = cores

    def new_folder(self) -> Path:
        """A folder that its jobs may write to, another one for each who asks."""
        made = Path(tempfile.mkdtemp(dir=self.folder / "shared"))
        made.chmod(0o777)
        return made

    @property
    def options(self) -> Mapping[str, Any]:
        """How a site queue of ours reaches the schedd: from afar, with a token."""
        return {"schedd": SCHEDD, "collector": f"127.0.0.1:{self.port}", "token_file": str(self.folder / "token")}

    def install(self) -> None:
        """Make its folders, keys and configuration."""
        condor = self._condor_user()
        for name, mode, owner in (
            *((name, 0o755, condor) for name in ("log", "lock", "run", "spool")),
            *((name, 0o700, 0) for name in ("cred", "keys", "tokens")),
            *((name, 0o1777, 0) for name in ("execute", "tmp", "shared")),
        ):
            made = self.folder / name
            made.mkdir()
            made.chmod(mode)
            os.chown(made, owner, -1)
        self.folder.chmod(0o755)
        key = self.folder / "keys" / "POOL"
        key.touch(0o600)
        key.write_text(secrets.token_hex(32))
        release = "/usr"
        if self._root == Path("/"):
            release = str(Path(find_program(["condor_master"], "minicondor")).resolve().parent.parent)
        (self.folder / "condor_config").write_text(
            _CONFIG.format(
                folder=self.folder, release=release, port=self.port, schedd=SCHEDD, domain=DOMAIN, cores=self._cores
            )
        )

    def command(self) -> list[str]:
        start = [
            *("env", f"CONDOR_CONFIG={self.folder / 'condor_config'}", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"),
            *("sh", "-ec", _START, "sh", str(self._root), str(self.folder), *map(str, self._folders)),
        ]
        return kept(start)

    def answers(self) -> bool:
        if not self._daemons("condor_startd"):
            return False
        there = self._run("condor_status", "-any", "-af", "MyType").stdout.split()
        if not {"Scheduler", "Machine", "Negotiator"} <= set(there):
            return False
        if not (self.folder / "token").exists():
            self.new_token(self.folder / "token")
        return True

    def new_token(self, file: Path, *options: str) -> None:
        """Write a token of the user whose jobs are allowed; `options` are those of condor_token_create."""
        token = self.ask("condor_token_create", "-identity", f"{USER}@{DOMAIN}", *options)
        file.touch(0o600)
        file.write_text(token)

    def ask(self, *command: str) -> str:
        """What one of HTCondor's commands prints, run by the pool's administrator; AssertionError when it fails."""
        done = self._run(*command)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout

    def configure(self, **settings: object) -> None:
        """Change settings of the running schedd; they replace those that were given before."""
        version = str(next(self._versions))
        lines = [f"{name} = {value}\n" for name, value in {**settings, "CONFIGURED": version}.items()]
        (self.folder / "extra").write_text("".join(lines))
        self.ask("condor_reconfig", "-daemon", "schedd")
        eventually(lambda: self._run("condor_config_val", "-schedd", "CONFIGURED").stdout.strip() == version)

    def clear(self) -> None:
        """Throw all jobs out of the queue, in whatever state they are."""

        def empty() -> bool:
            for force in ((), ("-forcex",)):
                self._run("condor_rm", "-all", *force)
            return not self.ask("condor_q", "-all", "-af", "ClusterId").split()

        eventually(empty)

    def schedd_down(self) -> None:
        """Stop the schedd. Its queue is kept, and running jobs run on."""
        self.ask("condor_off", "-fast", "-daemon", "schedd")
        eventually(lambda: not self._daemons("condor_schedd"))

    def schedd_up(self) -> None:
        """Start it again, and wait until the collector knows it and it answers."""
        self.ask("condor_on", "-daemon", "schedd")
        eventually(lambda: self._run("condor_q", "-all", "-totals").returncode == 0 and self.answers())

    @contextmanager
    def frozen_schedd(self) -> Iterator[None]:
        """A schedd that accepts connections and answers nothing."""
        (schedd,) = self._daemons("condor_schedd")
        schedd.suspend()
        try:
            yield
        finally:
            schedd.resume()

    def _daemons(self, name: str) -> list[psutil.Process]:
        below = psutil.Process(self.pid).children(recursive=True)
        return [process for process in below if _name(process) == name]

    @property
    def _master(self) -> int:
        (master,) = [child for child in psutil.Process(self.pid).children() if _name(child) == "condor_master"]
        return int(master.pid)

    def _run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                *("nsenter", "--target", str(self._master), "--mount", "--root", "--wd"),
                *("env", "-i", f"CONDOR_CONFIG={self.folder / 'condor_config'}", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"),
                *("_CONDOR_SEC_CLIENT_AUTHENTICATION_METHODS=FS", *command),
            ],
            check=False, capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    def _condor_user(self) -> int:
        users = (self._root / "etc" / "passwd").read_text().splitlines()
        (found,) = [int(line.split(":")[2]) for line in users if line.startswith("condor:")]
        return found

    def kill(self) -> None:
        """As `stop`: the jobs get no time to end in any case, and nothing may be left."""
        self.stop()


def _name(process: psutil.Process) -> str:
    try:
        return str(process.name())
    except psutil.NoSuchProcess:
        return ""


@contextmanager
def running_htcondor(*, folders: Sequence[Path] = (), cores: int = 20) -> Iterator[HtcondorPool]:
    """A pool for as long as the block lasts."""
    with server_folder("htcondor") as folder:
        pool = HtcondorPool(folder, folders=folders, cores=cores)
        pool.install()
        with pool:
            yield pool
