"""Where others are told to find a process that listens on all addresses of its machine."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from pipeline.health import HealthServer
from pipeline.settings import Settings


class Fine:
    """Nothing is wrong."""

    def stuck(self) -> list[str]:
        return []

    def unready(self) -> list[str]:
        return []


@pytest.mark.parametrize(("host", "told"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", socket.gethostname())])  # noqa: S104
def test_who_listens_on_all_addresses_is_found_by_the_name_of_the_machine(tmp_path: Path, host: str, told: str) -> None:
    server = HealthServer(Settings(data_dir=tmp_path, health_host=host), Fine())
    server.start()
    server.stop()
    assert server.url.rpartition(":")[0] == f"http://{told}"
