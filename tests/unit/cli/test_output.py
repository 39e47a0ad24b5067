"""What commands print."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime

import click
import pytest

from pipeline.cli.output import show_list, show_one
from pipeline.cli.words import folded
from pipeline.up.output import readable
from schemas.site_views import BanView

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def test_a_pipe_gets_a_plain_table_whose_empty_cells_keep_their_place(capsys: pytest.CaptureFixture[str]) -> None:
    show_list(
        [{"id": 1, "name": None, "at": NOON}, {"id": 22, "name": "b\nc", "at": None}],
        ("id", "name", "at"),
        as_json=False,
        of="things",
    )
    assert capsys.readouterr().out.splitlines() == [
        "ID  NAME  AT",
        "1   -     2026-01-02 12:00:00",
        "22  b c   -",
    ]


def test_json_is_whole_whatever_the_columns(capsys: pytest.CaptureFixture[str]) -> None:
    show_list([{"id": 1, "at": NOON, "raw": b"x"}], ("id",), as_json=True, of="things")
    assert json.loads(capsys.readouterr().out) == [{"id": 1, "at": "2026-01-02T12:00:00+00:00", "raw": "x"}]


def test_an_empty_list_is_valid_json(capsys: pytest.CaptureFixture[str]) -> None:
    show_list([], ("id",), as_json=True, of="things")
    assert json.loads(capsys.readouterr().out) == []


def test_an_empty_list_says_that_there_is_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    show_list([], ("id",), as_json=False, of="jobs")
    caught = capsys.readouterr()
    assert (caught.out, caught.err) == ("ID\n", "no jobs\n")


def test_times_of_models_are_for_people_in_tables_and_iso_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    ban = BanView(id=1, site="A", queue=None, vo=None, banned_by="me", why="x", created_at=NOON, until=None)
    show_list([ban], ("created_at",), as_json=False, of="bans")
    show_list([ban], ("created_at",), as_json=True, of="bans")
    shown = capsys.readouterr().out
    assert shown.startswith("CREATED AT\n2026-01-02 12:00:00\n[")
    assert '"created_at": "2026-01-02T12:00:00Z"' in shown


def test_control_characters_of_others_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    show_list([{"name": "a\x1b[31mred\0"}], ("name",), as_json=False, of="things")
    assert capsys.readouterr().out.splitlines()[1] == "a\\x1b[31mred\\x00"


def on_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the tables believe that a terminal of so many columns reads them."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")


def test_a_narrow_terminal_goes_without_empty_and_lesser_columns_and_says_which(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_terminal(40, monkeypatch)
    row = {"id": 1, "state": "done", "site": None, "changed_at": NOON, "reason": "the storage answered with an error"}
    show_list([row], ("id", "state", "site", "changed_at", "reason"), as_json=False, of="jobs")
    caught = capsys.readouterr()
    lines = click.unstyle(caught.out).splitlines()
    assert lines[0].split() == ["ID", "STATE", "REASON"]
    assert max(map(len, lines)) <= 40
    assert " ".join(" ".join(lines[1:]).split()) == "1 done the storage answered with an error"
    assert "CHANGED AT: no room" in caught.err


def test_a_cell_that_is_no_text_is_never_cut_or_broken(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_terminal(20, monkeypatch)
    show_list([{"id": "consumer-host-1234-abcdef", "state": "running"}], ("id", "state"), as_json=False, of="x")
    assert "consumer-host-1234-abcdef  running" in click.unstyle(capsys.readouterr().out)


def test_a_story_is_folded_into_80_columns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    on_terminal(80, monkeypatch)
    what = (
        "ended; its outputs are looked after; its pilot says succeeded, exit code 0 after 9.5 s, 4.2 s of CPU, 64 MiB"
    )
    where = "LCG.Example.org/long on wn-0123.example.org"
    row = {"at": NOON, "for": "119 min", "attempt": 2, "state": "completing", "where": where, "what": what}
    show_list([row], ("at", "for", "attempt", "state", "where", "what"), as_json=False, of="lines")
    caught = capsys.readouterr()
    head, *lines = click.unstyle(caught.out).splitlines()
    assert max(map(len, [head, *lines])) <= 80
    begin = head.index("WHAT")
    assert " ".join(line[begin:].strip() for line in lines).strip() == what
    places = [line[head.index("WHERE") : begin].strip() for line in lines]
    assert "".join(places).replace(" ", "") == where.replace(" ", "")
    assert "ATTEMPT: no room" in caught.err


def test_one_thing_shows_its_fields_and_its_tables(capsys: pytest.CaptureFixture[str]) -> None:
    show_one({"id": 1, "nothing": None, "events": [{"to": "done"}]}, as_json=False)
    assert capsys.readouterr().out.splitlines() == ["id  1", "", "events:", "TO", "done"]


def test_a_log_line_is_made_readable_and_another_line_left_alone() -> None:
    line = '{"@timestamp": "2026-01-02T12:00:00Z", "log.level": "info", "message": "job_matched", "labels": {"job": 7}}'
    assert readable(line) == "12:00:00 info    job_matched job=7"
    assert readable('{"a": 1}') == '{"a": 1}'
    assert readable("plain words") == "plain words"


def test_a_long_field_is_folded_between_words_and_stands_under_its_beginning() -> None:
    assert folded("cores=8 memory=4000", 80, 13) == "cores=8 memory=4000"
    assert folded("cores=8 memory=4000 site-of-a-name", 20, 2) == "cores=8\n  memory=4000\n  site-of-a-name"
    assert folded("a" * 30, 20, 2) == "a" * 30
