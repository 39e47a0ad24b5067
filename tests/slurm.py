"""A private Slurm: munged, slurmctld and two nodes on this machine, with sockets, ports, keys and folders of its own.

Its commands find it by `SLURM_CONF`. The nodes pretend to have 64 cores and 64 GiB each, so that many pilots run at a
time. With the URL of an empty MariaDB database it keeps accounts too (slurmdbd), and enforces their limits.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from tests.servers import STARTUP, end_process, find_program, free_port, server_folder
from tests.waiting import eventually

NODES = ("n1", "n2")
_CONF = """\
ClusterName=penstock
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthInfo=socket={folder}/munge.sock
SlurmctldPort={ports[0]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobAcctGatherType=jobacct_gather/none
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,bf_interval=1
ReturnToService=2
MessageTimeout=5
KillWait=1
MinJobAge={min_job_age}
{accounting}
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=64 RealMemory=64000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=64 RealMemory=64000
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
# MessageTimeout is also how long a command goes on trying to reach a controller that is down.
_ACCOUNTING = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={port}
AccountingStoragePass={folder}/munge.sock
AccountingStorageEnforce=limits,qos"""
_SLURMDBD = """\
AuthInfo=socket={folder}/munge.sock
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser=root
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost={url.hostname}
StoragePort={url.port}
StorageUser={url.username}
StorageLoc={name}
"""


class SlurmServer:
    """One partition, `main`. What it holds survives `down` and `up`."""

    def __init__(self, folder: Path, accounts: str = "") -> None:
        self.folder = folder
        self.conf = folder / "slurm.conf"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._accounts_port = free_port() if accounts else 0
        self._write(accounts)

    @property
    def environment(self) -> dict[str, str]:
        """Ours, with what makes Slurm's commands talk to this one."""
        return {**os.environ, "SLURM_CONF": str(self.conf)}

    @property
    def keeps_accounts(self) -> bool:
        """Whether there is a slurmdbd."""
        return self._accounts_port != 0

    def start(self) -> None:
        """Start everything and wait until the nodes are idle; AssertionError with the logs when they are not."""
        munge = {name: f"--{name}-file={self.folder / 'munge'}.{name}" for name in ("key", "pid", "log", "seed")}
        socket_path = self.folder / "munge.sock"
        self._start("munged", "--foreground", "--force", f"--socket={socket_path}", *munge.values())
        eventually(socket_path.exists, within=STARTUP, every=0.02)
        if self.keeps_accounts:
            self._start("slurmdbd", "-D")
            eventually(lambda: self._try("sacctmgr", "-n", "show", "cluster"), within=STARTUP, every=0.1)
            self.run("sacctmgr", "-i", "add", "cluster", "penstock")
            self.run("sacctmgr", "-i", "add", "account", "science")
            self.run("sacctmgr", "-i", "add", "user", "root", "account=science")
        self._start("slurmctld", "-D")
        for node in NODES:
            self._start("slurmd", "-D", "-N", node)
        eventually(self._is_ready, within=STARTUP, every=0.05)

    def stop(self) -> None:
        """Kill everything, jobs too, each by its process id. May be called twice."""
        for process in self._processes.values():
            _kill_tree(process.pid)
        self._end_jobs()
        for process in self._processes.values():
            process.wait()
        self._processes.clear()

    def down(self) -> None:
        """Stop the controller; nodes and jobs go on."""
        end_process(self._processes.pop("slurmctld -D"), signal.SIGTERM)

    def up(self) -> None:
        """Start the controller again, and wait until it answers and its nodes do."""
        self._start("slurmctld", "-D")
        eventually(self._is_ready, within=STARTUP, every=0.05)

    def freeze(self) -> None:
        """Have the controller accept connections and answer nothing."""
        self._processes["slurmctld -D"].send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen one go on."""
        self._processes["slurmctld -D"].send_signal(signal.SIGCONT)

    def fail_node(self, node: str) -> None:
        """Give a node up, with all that runs there."""
        self.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")

    def mend_node(self, node: str) -> None:
        """Have it again: it may have reported back by itself before."""
        self._try("scontrol", "update", f"NodeName={node}", "State=RESUME")
        eventually(self._is_ready, within=STARTUP, every=0.05)

    def run(self, *words: str, given: str | None = None) -> str:
        """What one of Slurm's commands prints, `given` on its standard input; AssertionError when it fails."""
        done = subprocess.run(
            [find_program([words[0]], "slurm-client"), *words[1:]],
            check=False, capture_output=True, text=True, timeout=STARTUP, env=self.environment, input=given,
        )  # fmt: skip
        assert done.returncode == 0, f"{' '.join(words)}: {done.stdout}{done.stderr}"
        return done.stdout

    def _try(self, *words: str) -> bool:
        self._all_live()
        with suppress(AssertionError):
            self.run(*words)
            return True
        return False

    def _is_ready(self) -> bool:
        """Nodes that have jobs are not idle, but may be asked."""
        self._all_live()
        try:
            states = self.run("sinfo", "--noheader", "--Node", "--format=%T").split()
        except AssertionError:
            return False
        return len(states) == len(NODES) and set(states) <= {"idle", "mixed", "allocated", "completing"}

    def _all_live(self) -> None:
        for name, process in self._processes.items():
            logs = [self.folder / "output", *self.folder.glob("*.log")]
            told = "\n".join(f"{log.name}:\n{log.read_text(errors='replace')[-2000:]}" for log in logs if log.exists())
            assert process.poll() is None, f"{name} ended with {process.returncode}:\n{told}"

    def _write(self, accounts: str) -> None:
        host = socket.gethostname().partition(".")[0]
        enforced = "AccountingStorageType=accounting_storage/none"
        if accounts:
            enforced = _ACCOUNTING.format(folder=self.folder, port=self._accounts_port)
            url = urlsplit(accounts)
            text = _SLURMDBD.format(folder=self.folder, port=self._accounts_port, url=url, name=url.path[1:])
            (self.folder / "slurmdbd.conf").write_text(text)
            (self.folder / "slurmdbd.conf").chmod(0o600)
        # with accounts, ended jobs are soon known by them alone
        settings = {"folder": self.folder, "host": host, "accounting": enforced, "min_job_age": 2 if accounts else 300}
        self.conf.write_text(_CONF.format(ports=[free_port() for _ in range(3)], **settings))
        (self.folder / "state").mkdir()
        key = self.folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(128))

    def _start(self, *words: str) -> None:
        package = {"munged": "munge", "slurmdbd": "slurmdbd"}.get(words[0], "slurm-wlm")
        command = [find_program([words[0]], package), *words[1:]]
        with (self.folder / "output").open("ab") as output:
            self._processes[" ".join(words[:4])] = subprocess.Popen(
                command, stdout=output, stderr=output, cwd=self.folder, env=self.environment
            )

    def _end_jobs(self) -> None:
        """What the nodes have started: daemons with our configuration in their environment, and children of those."""
        mark = f"SLURM_CONF={self.conf}".encode()
        for environment in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):  # psutil can't read it where a daemon has changed its title
                if mark in environment.read_bytes().split(b"\0"):
                    _kill_tree(int(environment.parent.name))


def _kill_tree(pid: int) -> None:
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                process.kill()


@contextmanager
def running_slurm(accounts: str = "") -> Iterator[SlurmServer]:
    """A Slurm for as long as the block lasts. `accounts`: URL of an empty MariaDB database, for one with accounting."""
    with server_folder("slurm") as folder:
        server = SlurmServer(folder, accounts)
        try:
            server.start()
            yield server
        finally:
            server.stop()
