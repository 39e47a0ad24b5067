"""What doctor says of settings: the same as the processes that would be started with them, or told to reload."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.cli.main import cli

WRONG = {
    ("OPTIMISERS", '["nobody"]'): "no optimiser is named 'nobody'",
    ("DEMAND_SOURCES", '["nobody"]'): "no demand source is named 'nobody'",
    ("SCHEDULES", '{"nothing": "* * * * *"}'): "PENSTOCK_SCHEDULES names 'nothing'",
    ("MOST_WORKERS", '{"nowhere": 1}'): "there is no queue 'nowhere'",
    ("API_TLS_KEY", "/key.pem"): "go together",
    ("TRACES_URL", "carrier+pigeon://x"): "PENSTOCK_TRACES_URL",
    ("SANDBOX_URL", "s4://x"): "PENSTOCK_SANDBOX_URL: 's4://x': Protocol not known: s4",
    ("API_URL", "nonsense"): "PENSTOCK_API_URL: 'nonsense' is no address of an API",
    ("API_URL", "https://host:port"): "PENSTOCK_API_URL: 'https://host:port' is no address of an API",
    ("API_URL", "ftp://host"): "PENSTOCK_API_URL: 'ftp://host' is no address of an API",
    ("BROKER_URL", "pigeon://x"): "PENSTOCK_BROKER_URL",
    ("DATABASE_URL", "oracle://x"): "PENSTOCK_DATABASE_URL",
}


@pytest.fixture(autouse=True)
def _nothing_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PENSTOCK_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


def said_of_settings() -> tuple[bool, str]:
    """Whether they are all right, and what is said of them."""
    findings = json.loads(CliRunner().invoke(cli, ["doctor", "--json"]).stdout)
    [found] = [finding for finding in findings if finding["check"] == "settings"]
    return found["ok"], found["detail"]


@pytest.mark.parametrize(("setting", "word", "told"), [(*line, told) for line, told in WRONG.items()])
def test_the_doctor_finds_what_a_process_would_refuse(
    monkeypatch: pytest.MonkeyPatch, setting: str, word: str, told: str
) -> None:
    monkeypatch.setenv(f"PENSTOCK_{setting}", word)
    ok, detail = said_of_settings()
    assert not ok
    assert told in detail


def test_the_doctor_names_what_was_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ok, detail = said_of_settings()
    assert ok
    assert detail.endswith("set: nothing, all defaults")
    (tmp_path / "penstock.env").write_text("PENSTOCK_API_URL=https://penstock.example.org\n")
    monkeypatch.setenv("PENSTOCK_SETTINGS_FILE", str(tmp_path / "penstock.env"))
    ok, detail = said_of_settings()
    assert ok
    assert detail.endswith("set: PENSTOCK_API_URL, PENSTOCK_SETTINGS_FILE")
