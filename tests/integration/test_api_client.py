"""The client against servers that fail."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Event, Thread

import pytest

from pipeline.client import Client, open_client
from pipeline.errors import ApiUnavailable, BadInput, BadSettings, Unauthorized
from pipeline.settings import Settings
from schemas.api import Changed, JobSelection, Role, TokenRequest, WhoAmI
from schemas.campaign import Campaign
from tests.api_server import running_api

CAMPAIGN = Campaign.model_validate({"campaign": "c", "steps": [{"name": "s", "command": ["true"]}]})


@contextmanager
def failing_server(fail: int, body: bytes, port: int = 0) -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    """A server that hangs up on the first `fail` requests and answers `body` to the others; what it was asked."""
    asked: list[tuple[str, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            asked.append((self.command, self.headers.get("Idempotency-Key")))
            if len(asked) <= fail:
                self.close_connection = True
                return
            self.send_response(201)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self.handle_any()

        def do_POST(self) -> None:
            self.handle_any()

        def log_message(self, *_args: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", port), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", asked
        finally:
            server.shutdown()
            thread.join()


def test_a_submission_whose_answer_was_lost_is_repeated_with_the_same_key() -> None:
    reply = b'{"campaign_id": 7, "name": "c", "jobs": 1}'
    with failing_server(2, reply) as (url, asked), Client(url, "t") as client:
        assert client.submit(CAMPAIGN).campaign_id == 7
    keys = {key for _, key in asked}
    assert len(asked) == 3
    assert len(keys) == 1
    assert None not in keys


def test_a_question_is_repeated_and_a_command_that_may_have_been_obeyed_is_not() -> None:
    with failing_server(1, b'{"subject": "a", "vo": "v", "group": null, "role": "user"}') as (url, asked):
        with Client(url, "t") as client:
            assert client.whoami() == WhoAmI(subject="a", vo="v", group=None, role=Role.USER)
        assert [method for method, _ in asked] == ["GET", "GET"]
    with failing_server(1, b"{}") as (url, asked):
        with Client(url, "t") as client, pytest.raises(ApiUnavailable):
            client.create_token(TokenRequest(subject="a"))
        assert [method for method, _ in asked] == ["POST"]


def test_a_command_that_does_no_harm_twice_is_repeated() -> None:
    with failing_server(1, b'{"changed": 0}') as (url, asked):
        with Client(url, "t") as client:
            assert client.retry(JobSelection(ids=(1,))).changed == 0
        assert [method for method, _ in asked] == ["POST", "POST"]


def test_an_api_that_is_started_again_is_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    answers: list[object] = []

    def ask() -> None:
        with Client(f"http://127.0.0.1:{port}", "t") as client:
            try:
                answers.append(client.post("/v1/jobs/kill", Changed, JobSelection(ids=(1,))).changed)
            except Exception as error:  # noqa: BLE001 - the test looks at it
                answers.append(error)

    asking = Thread(target=ask)
    asking.start()
    Event().wait(2.0)
    with failing_server(0, b'{"changed": 7}', port) as (_, asked):
        asking.join()
    assert answers == [7]
    assert len(asked) == 1


def test_an_api_that_is_not_there_is_named_with_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    with Client(url, "t", tries=2) as client, pytest.raises(ApiUnavailable) as caught:
        client.whoami()
    assert url in str(caught.value)
    assert "penstock up" in str(caught.value)


def test_an_answer_of_something_else_is_no_crash() -> None:
    wrong = pytest.raises(ApiUnavailable, match="check PENSTOCK_API_URL")
    with failing_server(0, b"<html>") as (url, _), Client(url, "t") as client, wrong:
        client.whoami()


def test_an_api_of_a_newer_release_may_say_more() -> None:
    reply = b'{"job_id": 7, "attempt": 1, "source": "none", "stdout": "", "stderr": "", "colour": "red"}'
    with failing_server(0, reply) as (url, _), Client(url, "t") as client:
        assert client.logs(7).attempt == client.logs(7, 1).attempt == 1


def test_an_older_api_s_other_attempt_is_not_taken_for_the_one_that_was_asked_for() -> None:
    reply = b'{"job_id": 7, "attempt": 3, "source": "none", "stdout": "of the third", "stderr": ""}'
    older = pytest.raises(ApiUnavailable, match=r"release before 0\.5\.0, which shows attempt 3 of job 7 alone")
    with failing_server(0, reply) as (url, _), Client(url, "t") as client, older:
        client.logs(7, 1)


def test_a_url_that_is_none_is_bad_input() -> None:
    with Client("nonsense", "t") as client, pytest.raises(BadInput, match="PENSTOCK_API_URL"):
        client.whoami()


def test_the_client_of_the_settings_reads_url_and_token_from_the_data_directory(tmp_path: Path) -> None:
    with running_api(tmp_path) as api:
        settings = Settings(data_dir=tmp_path)
        with pytest.raises(BadSettings, match="no API is known"):
            open_client(settings)
        (tmp_path / "api.url").write_text(api.url + "\n")
        (tmp_path / "token").write_text(api.token(Role.MONITOR, subject="ada") + "\n")
        with open_client(settings) as client:
            assert client.whoami().subject == "ada"
        (tmp_path / "token").write_text("pst_wrong")
        with open_client(settings) as client, pytest.raises(Unauthorized, match="not known"):
            client.whoami()
