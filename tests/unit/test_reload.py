"""When settings are read again, and what happens to those that can't be taken on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipeline import reload
from pipeline.errors import BadSettings
from pipeline.reload import NEEDS_RESTART, PATIENCE, QUIET, Reloader
from pipeline.settings import Settings
from pipeline.settings_file import load_settings


@dataclass
class Process:
    """One that reloads, by a clock of the test's."""

    file: Path
    now: float = 100.0
    adopted: list[Settings] = field(default_factory=list)
    fault: Exception | None = None
    interruptions: int = 0
    """Signals that are still to come while it takes settings on."""

    def __post_init__(self) -> None:
        self.reloader = Reloader(load_settings(), "test", self.adopt)

    def adopt(self, settings: Settings) -> None:
        if self.fault is not None:
            raise self.fault
        self.adopted.append(settings)
        if self.interruptions:
            self.interruptions -= 1
            signal.raise_signal(signal.SIGHUP)

    def monotonic(self) -> float:
        return self.now

    def signal_and_look(self, *, after: float) -> None:
        """Let time pass, send a signal, look."""
        self.now += after
        signal.raise_signal(signal.SIGHUP)
        self.reloader.look()


@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Process]:
    for name in [name for name in os.environ if name.startswith("PENSTOCK_")]:
        monkeypatch.delenv(name)
    file = tmp_path / "penstock.env"
    file.write_text("PENSTOCK_SANDBOX_LIMIT=1\n")
    monkeypatch.setenv("PENSTOCK_SETTINGS_FILE", str(file))
    made = Process(file)
    monkeypatch.setattr(reload, "time", made)
    monkeypatch.setattr(reload, "configure_logging", lambda *_: None)
    before = signal.getsignal(signal.SIGHUP)
    made.reloader.catch()
    yield made
    signal.signal(signal.SIGHUP, before)


def test_signals_that_follow_each_other_are_one_reload_after_the_last(process: Process) -> None:
    for _ in range(30):
        process.signal_and_look(after=QUIET / 10)
    assert process.adopted == []
    process.now += QUIET
    for _ in range(3):
        process.reloader.look()
    assert len(process.adopted) == 1


def test_signals_without_an_end_do_not_put_it_off_for_ever(process: Process) -> None:
    for _ in range(100):
        process.signal_and_look(after=PATIENCE / 50)
    assert len(process.adopted) == 1


def test_a_signal_while_settings_are_taken_on_is_another_reload(process: Process) -> None:
    process.interruptions = 1
    process.signal_and_look(after=0)
    for _ in range(4):
        process.now += QUIET
        process.reloader.look()
    assert len(process.adopted) == 2


@pytest.mark.parametrize("fault", [BadSettings("no"), RuntimeError("no room")])
def test_what_cannot_be_taken_on_changes_nothing(process: Process, fault: Exception) -> None:
    process.fault = fault
    process.file.write_text("PENSTOCK_SANDBOX_LIMIT=2\n")
    process.signal_and_look(after=0)
    process.now += QUIET
    process.reloader.look()
    assert process.reloader.settings.sandbox_limit == 1
    process.fault = None
    process.signal_and_look(after=0)
    process.now += QUIET
    process.reloader.look()
    assert process.reloader.settings.sandbox_limit == 2


def test_what_only_a_restart_changes_is_handed_on_as_it_was(process: Process) -> None:
    process.file.write_text("PENSTOCK_SANDBOX_LIMIT=2\nPENSTOCK_API_PORT=1\nPENSTOCK_DATA_DIR=/elsewhere\n")
    process.signal_and_look(after=0)
    process.now += QUIET
    process.reloader.look()
    (adopted,) = process.adopted
    assert adopted.model_dump(exclude={"settings_file"}) == Settings(sandbox_limit=2).model_dump(
        exclude={"settings_file"}
    )
    assert set(Settings.model_fields) > NEEDS_RESTART
