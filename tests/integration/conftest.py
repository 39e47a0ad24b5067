"""One API for all tests of a file, each of which has a VO of its own in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.api import Role
from tests.api_server import RunningApi, running_api


@pytest.fixture(scope="module")
def shared_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    with running_api(tmp_path_factory.mktemp("api")) as running:
        yield running


@pytest.fixture
def api(shared_api: RunningApi) -> RunningApi:
    """The shared API, as a VO of this test's own sees it."""
    return shared_api.in_new_vo()


@pytest.fixture
def as_operator(api: RunningApi, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Commands of `penstock` reach the API as the operator of the test's VO, from a folder of its own."""
    monkeypatch.setenv("PENSTOCK_API_URL", api.url)
    monkeypatch.setenv("PENSTOCK_TOKEN", api.token(Role.OPERATOR, subject="op"))
    monkeypatch.chdir(tmp_path)
