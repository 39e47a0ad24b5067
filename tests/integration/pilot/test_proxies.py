"""Pilots whose only way out is a proxy, over HTTPS."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.integration.pilot.conftest import StartPilot
from tests.integration.pilot.scripted_api import ScriptedApi, serving
from tests.servers import Server, find_program, free_port
from tests.waiting import eventually


class TinyProxy(Server):
    """A real forward proxy."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        settings = self.folder / "tinyproxy.conf"
        settings.write_text(f'Port {self.port}\nListen 127.0.0.1\nAllow 127.0.0.1\nViaProxyName "test"\n')
        return [find_program(["tinyproxy"], "tinyproxy-bin"), "-d", "-c", str(settings)]

    def answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[TinyProxy]:
    (tmp_path / "proxy").mkdir()
    with TinyProxy(tmp_path / "proxy") as running:
        yield running


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    """Whom the API's certificate is of; written to `ca.pem`."""
    made = trustme.CA()
    made.cert_pem.write_to_path(tmp_path / "ca.pem")
    return made


@pytest.fixture
def api(authority: trustme.CA) -> Iterator[ScriptedApi]:
    """A scripted API over HTTPS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with serving(ScriptedApi(), context) as scripted:
        yield scripted


def test_a_pilot_behind_a_proxy_speaks_https_through_it(
    api: ScriptedApi, start_pilot: StartPilot, proxy: TinyProxy, tmp_path: Path
) -> None:
    key = api.give(1, "/bin/sh", "-c", "env; seq 100000")
    pilot = start_pilot("--idle-limit", "1", https_proxy=proxy.url, SSL_CERT_FILE=str(tmp_path / "ca.pem"))
    assert api.report_of(key).outcome == "succeeded"
    assert pilot.wait(20) == 0
    log = proxy.log.read_text()
    assert f"CONNECT {api.url.removeprefix('https://')}" in log
    assert "/v1/pilots" not in log
    proxied = [line for line in api.archived(key)["stdout.txt"].decode().splitlines() if line.startswith("https_proxy")]
    assert proxied == []


def test_a_pilot_goes_on_when_its_proxy_comes_back(
    api: ScriptedApi, start_pilot: StartPilot, proxy: TinyProxy, tmp_path: Path
) -> None:
    proxy.stop()
    pilot = start_pilot("--idle-limit", "5", https_proxy=proxy.url, SSL_CERT_FILE=str(tmp_path / "ca.pem"))
    proxy.start()
    assert api.report_of(api.give(1, "true")).outcome == "succeeded"
    proxy.kill()
    key = api.give(2, "true")
    proxy.start()
    assert api.report_of(key).outcome == "succeeded"
    api.drain = True
    assert pilot.wait(20) == 0


def test_a_pilot_does_not_speak_to_an_api_whose_certificate_it_does_not_know(
    api: ScriptedApi, start_pilot: StartPilot, tmp_path: Path
) -> None:
    start_pilot()
    eventually(lambda: "CERTIFICATE_VERIFY_FAILED" in (tmp_path / "pilot.log").read_text())
    assert api.enrolments == []
