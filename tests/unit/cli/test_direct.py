"""Commands that go past the API."""

from __future__ import annotations

import getpass
import os

import pytest

from pipeline.cli.direct import who


def test_whoever_has_no_name_is_told_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs with a uid of its own."""

    def unknown() -> str:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr(getpass, "getuser", unknown)
    assert who().startswith(f"uid {os.getuid()}@")
