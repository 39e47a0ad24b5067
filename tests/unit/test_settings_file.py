"""The settings file: what a line means, that the environment wins, and how what is wrong is told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.errors import BadSettings
from pipeline.settings_file import load_settings


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A settings file, and no other settings."""
    for name in [name for name in os.environ if name.startswith("PENSTOCK_")]:
        monkeypatch.delenv(name)
    path = tmp_path / "penstock.env"
    path.write_text("")
    monkeypatch.setenv("PENSTOCK_SETTINGS_FILE", str(path))
    return path


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("PENSTOCK_DATABASE_URL=mysql://u:p$w#r@h/n", "mysql://u:p$w#r@h/n"),
        ('PENSTOCK_DATABASE_URL="mysql://u:${HOME} #@h/n"', "mysql://u:${HOME} #@h/n"),
        ("PENSTOCK_DATABASE_URL='x=y'\r", "x=y"),
        ("PENSTOCK_DATABASE_URL=first\nPENSTOCK_DATABASE_URL=second", "second"),
        ("# a comment\n\n  PENSTOCK_DATABASE_URL=x", "x"),
    ],
)
def test_a_value_is_what_stands_there(file: Path, line: str, expected: str) -> None:
    file.write_text(line + "\n")
    assert load_settings().database_url == expected


def test_the_environment_wins_and_mappings_are_not_mixed(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('PENSTOCK_API_PORT=1\nPENSTOCK_CONSUMER_SLOTS=2\nPENSTOCK_SCHEDULES={"a": "1", "b": "2"}\n')
    monkeypatch.setenv("PENSTOCK_API_PORT", "3")
    monkeypatch.setenv("PENSTOCK_SCHEDULES", '{"a": "4"}')
    said = load_settings()
    assert (said.api_port, said.consumer_slots, said.schedules) == (3, 2, {"a": "4"})


def test_without_a_file_all_is_as_the_environment_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_SETTINGS_FILE", "")
    monkeypatch.setenv("PENSTOCK_API_PORT", "3")
    assert load_settings().model_dump(exclude_defaults=True) == {"api_port": 3}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("PENSTOCK_API_PRT=1", "there is no setting PENSTOCK_API_PRT; did you mean PENSTOCK_API_PORT?"),
        ("HOME=/", "there is no setting HOME; remove the line"),
        ("penstock_api_port=1", "there is no setting penstock_api_port; did you mean PENSTOCK_API_PORT?"),
        ("PENSTOCK_TOKEN=secret # why", "PENSTOCK_TOKEN: comments stand on lines of their own"),
        ("PENSTOCK_TOKEN='secret' # why", "PENSTOCK_TOKEN: comments stand on lines of their own"),
        ('PENSTOCK_DATABASE_URL=mysql://u:secret #"b@h/n', "PENSTOCK_DATABASE_URL: comments stand on lines"),
        ("export PENSTOCK_TOKEN=secret", "no NAME=VALUE"),
        ("PENSTOCK_SETTINGS_FILE=/other", "PENSTOCK_SETTINGS_FILE can't name another file"),
        ("PENSTOCK_TOKEN secret", "no NAME=VALUE"),
        ("PENSTOCK_TOKEN", "no NAME=VALUE"),
        ("PENSTOCK_TOKEN='secret", "no NAME=VALUE"),
        ("PENSTOCK_API_PORT=many", "PENSTOCK_API_PORT: Input should be a valid integer"),
        ('PENSTOCK_LEAST_WORKERS={"data": -1}', "PENSTOCK_LEAST_WORKERS (data): Input should be greater than"),
        ("PENSTOCK_SCHEDULES={", "PENSTOCK_SCHEDULES: no JSON: "),
    ],
)
def test_what_is_wrong_is_told_with_its_line(file: Path, line: str, said: str) -> None:
    file.write_text(f"# a comment\n\n{line}\n")
    with pytest.raises(BadSettings) as caught:
        load_settings()
    assert str(caught.value).startswith(f"{file}, line 3: {said}")
    assert "secret" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(file: Path) -> None:
    file.write_bytes(b"PENSTOCK_TOKEN=\xff\n")
    with pytest.raises(BadSettings, match=f"^{file}: .*settings files are UTF-8$"):
        load_settings()
    file.unlink()
    with pytest.raises(BadSettings, match=f"^PENSTOCK_SETTINGS_FILE: can't read {file}: No such file"):
        load_settings()


def test_what_the_environment_has_wrong_is_told_by_its_name_alone(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("PENSTOCK_SCHEDULES={}\n")
    monkeypatch.setenv("PENSTOCK_SCHEDULES", "nonsense")
    with pytest.raises(BadSettings, match=r"^PENSTOCK_SCHEDULES: no JSON: "):
        load_settings()
