"""What `penstock scale` refuses, before it looks for a database."""

from __future__ import annotations

import pytest

from pipeline.cli.main import run

REFUSED = {
    "there is no queue 'dtaa'; there are data, ": ("dtaa", "2"),
    "0 is not in the range 1<=x<=64": ("data", "0"),
    "how many? `penstock scale` without arguments": ("data",),
}


@pytest.mark.parametrize("complaint", REFUSED)
def test_what_cannot_be_scaled_is_refused_in_a_line(complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["scale", *REFUSED[complaint]]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert complaint in said
