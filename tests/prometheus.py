"""Debian's Prometheus, scraping every process of a system every other second."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.servers import free_port
from tests.waiting import eventually


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A running one."""

    url: str

    def ask(self, path: str, **parameters: str) -> Any:
        """What its API answers. Raises httpx.HTTPError."""
        reply = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=10)
        reply.raise_for_status()
        return reply.json()["data"]

    def is_ready(self) -> bool:
        """Whether it answers."""
        try:
            return httpx.get(f"{self.url}/-/ready", timeout=5).is_success
        except httpx.HTTPError:
            return False

    def names(self) -> set[str]:
        """The metrics that its targets tell, with or without samples."""
        return set(self.ask("metadata"))

    def values(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each sample of an expression, as of now."""
        found = self.ask("query", query=expression)["result"]
        return [(sample["metric"], float(sample["value"][1])) for sample in found]

    def firing(self, alert: str, **labels: str) -> bool:
        """Whether an alert with these labels fires."""
        wanted = {"alertname": alert, **labels}
        found = self.ask("alerts")["alerts"]
        return any(one["state"] == "firing" and wanted.items() <= one["labels"].items() for one in found)


@contextmanager
def running_prometheus(folder: Path, api_url: str, token: str, rules: str) -> Iterator[Prometheus]:
    """One that asks the API which processes there are, scrapes them and evaluates `rules`, until the block ends."""
    folder.mkdir()
    (folder / "rules.yml").write_text(rules)
    discovery = {
        "url": f"{api_url}/v1/scrape-targets",
        "refresh_interval": "1s",
        "authorization": {"type": "Bearer", "credentials": token},
    }
    configuration = {
        "global": {"scrape_interval": "2s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yml"],
        "scrape_configs": [{"job_name": "penstock", "http_sd_configs": [discovery]}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    port = free_port()
    command = ["prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)
    try:
        found = Prometheus(f"http://127.0.0.1:{port}")
        eventually(found.is_ready)
        yield found
    finally:
        process.terminate()
        process.wait(20)
