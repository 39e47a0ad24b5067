"""A private RabbitMQ node with AMQP, STOMP and the management API, and a port mapper of its own."""

from __future__ import annotations

import itertools
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from tests.servers import STARTUP, Server, find_program, free_port, server_folder
from tests.waiting import eventually

_GREETING = b"AMQP\x00\x00\x09\x01"
_SETTINGS = """\
listeners.tcp.1 = 127.0.0.1:{amqp}
stomp.listeners.tcp.1 = 127.0.0.1:{stomp}
management.tcp.ip = 127.0.0.1
management.tcp.port = {management}
management.rates_mode = none
collect_statistics_interval = 100
management.sample_retention_policies.global.minute = 1
management.sample_retention_policies.basic.minute = 1
management.sample_retention_policies.detailed.minute = 1
log.file = false
log.console = true
log.console.level = warning
disk_free_limit.absolute = 1MB
vm_memory_high_watermark.absolute = 1GB
raft.wal_max_size_bytes = 33554432
"""
# The management API's numbers are as old as its shortest sample: 1 s instead of 5.
# Few threads that never spin: the machine is shared. A quorum queue has statistics of its own, at its ticks.
_RUNTIME = (
    "+S 2:2 +SDio 2 +sbwt none +sbwtdcpu none +sbwtdio none"
    " -kernel inet_dist_use_interface {127,0,0,1} -rabbit quorum_tick_interval 100"
)


class RabbitMqServer(Server):
    """User guest with password guest. What it holds survives restarts; its vhosts separate tests."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.port, self.stomp_port, self.management_port = free_port(), free_port(), free_port()
        self._distribution_port, self._mapper_port = free_port(), free_port()
        self._mapper: subprocess.Popen[bytes] | None = None
        self._vhosts = itertools.count(1)

    @property
    def amqp_url(self) -> str:
        """The vhost "/" by AMQP."""
        return self.amqp_url_of("/")

    @property
    def stomp_url(self) -> str:
        """The vhost "/" by STOMP."""
        return self.stomp_url_of("/")

    @property
    def management_url(self) -> str:
        """The management API."""
        return f"http://guest:guest@127.0.0.1:{self.management_port}"

    @property
    def counting_amqp_url(self) -> str:
        """As `amqp_url`, for a transport that asks the management API what is in flight."""
        return f"{self.amqp_url}?management={self.management_url}"

    @property
    def counting_stomp_url(self) -> str:
        """As `stomp_url`, for a transport that asks the management API for counts."""
        return f"{self.stomp_url}?management={self.management_url}"

    def amqp_url_of(self, vhost: str) -> str:
        """A vhost by AMQP."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}{_path(vhost)}"

    def stomp_url_of(self, vhost: str) -> str:
        """A vhost by STOMP."""
        return f"stomp://guest:guest@127.0.0.1:{self.stomp_port}{_path(vhost)}"

    def command(self) -> list[str]:
        program = shutil.which("rabbitmq-server", path="/usr/lib/rabbitmq/bin")
        return ["env", *self._environment(), program or find_program(["rabbitmq-server"], "rabbitmq-server")]

    def start(self) -> None:
        """As any server; the port mapper first, which the node would start as a daemon that outlives it."""
        plugins = self.folder / "enabled_plugins"
        plugins.write_text("[rabbitmq_management,rabbitmq_stomp].\n")
        settings = {"amqp": self.port, "stomp": self.stomp_port, "management": self.management_port}
        (self.folder / "rabbitmq.conf").write_text(_SETTINGS.format_map(settings))
        mapper = [find_program(["epmd"], "erlang-base"), "-address", "127.0.0.1", "-port", str(self._mapper_port)]
        with self.log.open("ab") as log:
            self._mapper = subprocess.Popen(mapper, stdout=log, stderr=log)
        eventually(lambda: _listens(self._mapper_port), within=STARTUP, every=0.02)
        super().start()

    def answers(self) -> bool:
        ports = (self.stomp_port, self.management_port)
        return self._greets() and all(_listens(port) for port in ports)

    def control(self, *arguments: str) -> str:
        """What `rabbitmqctl ARGUMENTS` prints (it takes two seconds); AssertionError when it fails."""
        program = shutil.which("rabbitmqctl", path="/usr/lib/rabbitmq/bin") or find_program(
            ["rabbitmqctl"], "rabbitmq-server"
        )
        done = subprocess.run(
            ["env", *self._environment(), program, *arguments],
            check=False, capture_output=True, text=True, timeout=STARTUP,
        )  # fmt: skip
        assert done.returncode == 0, f"rabbitmqctl {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout

    def ask(self, method: str, path: str, content: Any = None) -> Any:
        """The management API's answer, parsed; AssertionError when it refuses. `path` follows /api/."""
        url = f"{self.management_url}/api/{path}"
        answer = httpx.request(method, url, json=content, timeout=STARTUP)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def new_vhost(self) -> str:
        """The name of an empty vhost of its own, where guest may do everything."""
        name = f"test-{next(self._vhosts)}"
        self.ask("PUT", f"vhosts/{name}", {})
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        self.ask("PUT", f"permissions/{name}/guest", everything)
        return name

    def drop_vhost(self, name: str) -> None:
        """Throw a vhost away, with its queues and connections."""
        self.ask("DELETE", f"vhosts/{quote(name, safe='')}")

    def delete_queues(self, vhost: str = "/") -> None:
        """Throw the queues of a vhost away, with what they hold."""
        inside = quote(vhost, safe="")
        for queue in self.ask("GET", f"queues/{inside}?columns=name"):
            self.ask("DELETE", f"queues/{inside}/{quote(queue['name'], safe='')}")

    def _environment(self) -> list[str]:
        return [
            # The cookie, by which the node and rabbitmqctl know each other, lies in the home folder.
            f"HOME={self.folder}",
            f"ERL_EPMD_PORT={self._mapper_port}",
            f"RABBITMQ_NODENAME=test-{self.port}@localhost",
            f"RABBITMQ_DIST_PORT={self._distribution_port}",
            f"RABBITMQ_MNESIA_BASE={self.folder / 'data'}",
            f"RABBITMQ_LOG_BASE={self.folder / 'logs'}",
            f"RABBITMQ_GENERATED_CONFIG_DIR={self.folder / 'generated'}",
            f"RABBITMQ_ENABLED_PLUGINS_FILE={self.folder / 'enabled_plugins'}",
            f"RABBITMQ_CONFIG_FILE={self.folder / 'rabbitmq.conf'}",
            f"RABBITMQ_ADVANCED_CONFIG_FILE={self.folder / 'advanced.config'}",
            f"RABBITMQ_CONF_ENV_FILE={self.folder / 'rabbitmq-env.conf'}",
            f"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS={_RUNTIME}",
            # The start script then becomes the node instead of minding it, so that our signals reach the node.
            "RUNNING_UNDER_SYSTEMD=true",
        ]

    def _greets(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                connection.sendall(_GREETING)
                return connection.recv(1) == b"\x01"
        except OSError:
            return False

    def _end(self, signum: int) -> None:
        super()._end(signum)
        if self._mapper is not None:
            self._mapper.send_signal(signal.SIGTERM)
            self._mapper.wait()
            self._mapper = None


def _path(vhost: str) -> str:
    return "" if vhost == "/" else f"/{quote(vhost, safe='')}"


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            return True
    except OSError:
        return False


@contextmanager
def running_rabbitmq() -> Iterator[RabbitMqServer]:
    """A RabbitMQ for as long as the block lasts; then killed, since an orderly end takes it five seconds."""
    with server_folder("rabbitmq") as folder, RabbitMqServer(folder) as server:
        yield server
        server.kill()
