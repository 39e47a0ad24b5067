"""The OpenAPI document, against the application that it describes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.api.problems import MEDIA_TYPE
from tests.api_server import RunningApi, running_api


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    with running_api(tmp_path_factory.mktemp("api")) as running:
        yield running


@pytest.fixture(scope="module")
def document(api: RunningApi) -> dict[str, Any]:
    with api.http() as http:
        answer = http.get("/openapi.json")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for part in value.values():
            yield from references(part)
    if isinstance(value, list):
        for part in value:
            yield from references(part)


def test_every_operation_says_what_it_answers(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        for status, response in operation["responses"].items():
            if method != "head" and status in {"200", "201"}:
                (content,) = response["content"].values()
                assert content["schema"], f"{method} {path}: {status}"


def test_every_operation_says_that_errors_are_problems(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        assert list(operation["responses"]["default"]["content"]) == [MEDIA_TYPE], f"{method} {path}"
        assert "422" not in operation["responses"], f"{method} {path}"


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    found = set(references(document))
    assert found
    assert found <= known


def test_operation_ids_are_unique_and_every_operation_is_described(document: dict[str, Any]) -> None:
    ids = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(ids) == len(set(ids))
    assert all(operation["description"] for _, _, operation in operations(document))


def test_routes_with_a_policy_want_the_bearer_token(document: dict[str, Any]) -> None:
    open_to_all = {path for path, _, operation in operations(document) if "security" not in operation}
    assert open_to_all == {"/livez", "/readyz", "/metrics", "/v1/schema/campaign", "/v1/pilots/enrol"}


def test_what_is_nowhere_is_a_problem_too(api: RunningApi) -> None:
    with api.http() as http:
        nowhere, wrong_method = http.get("/v1/nowhere"), http.delete("/livez")
    assert (nowhere.status_code, wrong_method.status_code) == (404, 405)
    assert nowhere.headers["content-type"] == wrong_method.headers["content-type"] == MEDIA_TYPE
    assert nowhere.json()["detail"] == "there is nothing at /v1/nowhere; /docs lists what there is"
