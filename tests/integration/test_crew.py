"""The consumers that `penstock scale` adds: they come, go, and are asked to end once. Real processes, no servers."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from errno import EAGAIN
from pathlib import Path
from threading import Thread

import pytest

from pipeline.up.child import Child
from pipeline.up.crew import Crew
from pipeline.up.output import Output
from tests.waiting import eventually

STUBBORN = """
trap "echo asked >> {0}/asked; [ -e {0}/let-go ] && exit 0" TERM
touch {0}/$1-ready
while :; do sleep 0.02; done
"""
"""Ends when it is asked to, but only once there is a file that lets it go."""


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    """A crew of stubborn processes that get a second to end."""
    output = Output(("up",))

    def employ(name: str, queue: str) -> Child:
        return Child(name, ("/bin/sh", "-c", STUBBORN.format(tmp_path), queue, name), output)

    made = Crew(("data", "matching"), employ, output, patience=1.0)
    yield made
    for child in made:
        child.end(0.0)


def start(crew: Crew, folder: Path) -> None:
    """As `penstock up` does: whoever shall serve and has no process gets one, and minds signals then."""
    for child in crew.serving:
        if child.process is None:
            child.start(os.environ)
            eventually((folder / f"{child.name}-ready").exists)


def gone(crew: Crew, workers: dict[str, int], names: set[str]) -> bool:
    """Whether these are gone, looking as `penstock up` does."""
    crew.follow(workers)
    return not names & {child.name for child in crew}


def test_there_are_as_many_as_are_wished_beside_the_one_that_serves_all(crew: Crew, tmp_path: Path) -> None:
    (tmp_path / "let-go").touch()
    crew.follow({"data": 3, "gone": 5})
    start(crew, tmp_path)
    assert {child.name for child in crew.serving} == {"data-2", "data-3"}
    crew.follow({"data": 2, "matching": 2})
    start(crew, tmp_path)
    assert {child.name for child in crew.serving} == {"data-2", "matching-2"}
    eventually(lambda: gone(crew, {"data": 2, "matching": 2}, {"data-3"}))
    eventually(lambda: gone(crew, {}, {"data-2", "matching-2"}))


def test_one_that_is_wished_again_while_it_ends_is_not_asked_again_and_begins_anew(crew: Crew, tmp_path: Path) -> None:
    crew.follow({"data": 2})
    start(crew, tmp_path)
    (leaving,) = crew.serving
    crew.follow({"data": 1})
    eventually((tmp_path / "asked").exists)
    leaving.terminate()
    assert wished_again(crew) == [], "two of the same name would be one too many"
    assert leaving.runs()
    (successor,) = eventually(lambda: wished_again(crew))
    assert successor is not leaving
    assert leaving.process is None, "it did not end in time and was killed"
    assert (tmp_path / "asked").read_text() == "asked\n", "to be asked twice is to be ended at once"


def wished_again(crew: Crew) -> list[Child]:
    crew.follow({"data": 2})
    return list(crew.serving)


@pytest.mark.parametrize("what", ["process", "thread"])
def test_where_there_is_no_room_for_one_more_it_is_due_again_later(
    crew: Crew, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_args: object, **_more: object) -> None:
        raise BlockingIOError(EAGAIN, "Resource temporarily unavailable") if what == "process" else RuntimeError("full")

    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    crew.follow({"data": 2})
    (child,) = crew.serving
    with monkeypatch.context() as patched:
        patched.setattr(subprocess if what == "process" else Thread, "Popen" if what == "process" else "start", refuse)
        child.start(os.environ)
    assert (child.process, child.failures) == (None, 1)
    assert child.due_at > child.started_at
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    assert "data-2 can't be started: " in "".join(capsys.readouterr())
    start(crew, tmp_path)
    assert child.runs()
