"""Credentials of batch systems from files and commands: what they say of their end, and what becomes of bad ones."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from executors.pilots.batch import credentials
from executors.pilots.batch.credentials import Credential, CurrentCredential, find_credential
from pipeline.errors import BadSettings, BatchSystemUnavailable
from tests.certificates import Authority, certificate_pem
from tests.integration.pilot.payloads import alive
from tests.waiting import eventually

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
SECRET = "c2VjcmV0LXNpZ25hdHVyZQ"


class Clock:
    """One that goes by hand."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


def jwt(end: datetime | None, number: int = 0) -> str:
    """A token that ends then."""
    claims = {"sub": "pilots", "jti": number} | ({} if end is None else {"exp": end.timestamp()})
    parts = (json.dumps(part).encode() for part in ({"alg": "RS256"}, claims))
    return ".".join([*(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts), SECRET])


def secret_file(file: Path, text: str, mode: int = 0o600) -> Path:
    file.touch(0o600)
    file.write_text(text)
    file.chmod(mode)
    return file


def found(options: dict[str, object], clock: Callable[[], datetime] = credentials.utc_now) -> Credential:
    credential = find_credential("SITE.queue", options, clock=clock)
    assert credential is not None
    return credential


def script(folder: Path, text: str) -> list[str]:
    """A command that runs this Python."""
    file = folder / "command.py"
    file.write_text(text)
    return [sys.executable, str(file)]


def refusal(credential: Credential) -> str:
    with pytest.raises(BatchSystemUnavailable) as caught:
        credential.current()
    message = str(caught.value)
    assert message.startswith("queue SITE.queue: the ")
    assert "\n" not in message
    return message


def test_a_token_in_a_file_is_read_again_when_it_changes_and_ends_at_its_exp(tmp_path: Path, clock: Clock) -> None:
    file = secret_file(tmp_path / "token", jwt(NOW + timedelta(hours=1)) + "\n")
    credential = found({"token_file": str(file)}, clock)
    first = credential.current()
    assert first == CurrentCredential(jwt(NOW + timedelta(hours=1)), NOW + timedelta(hours=1))
    secret_file(tmp_path / "new", jwt(NOW + timedelta(hours=2))).replace(file)
    assert credential.current().ends_at == NOW + timedelta(hours=2)


@pytest.mark.parametrize("token", [jwt(None), "opaque", "a.b.c", f"a.{'x' * 5}.c"])
def test_a_token_that_does_not_say_when_it_ends_is_used(tmp_path: Path, token: str) -> None:
    credential = found({"token_file": str(secret_file(tmp_path / "token", token))})
    assert credential.current() == CurrentCredential(token, None)


def test_a_proxy_ends_with_the_first_of_those_that_it_hangs_on(tmp_path: Path, authority: Authority) -> None:
    user = authority.user("pilots", life=timedelta(hours=3))
    short = user.proxy(timedelta(hours=1))
    for holder, end in {
        user: user.ends_at,
        user.proxy(timedelta(hours=12)): user.ends_at,
        short: short.ends_at,
        short.proxy(timedelta(hours=2)): short.ends_at,
    }.items():
        credential = found({"proxy_file": str(secret_file(tmp_path / "proxy", holder.pem))})
        assert credential.current() == CurrentCredential(holder.pem, end)


def test_what_has_ended_is_refused(tmp_path: Path, authority: Authority, clock: Clock) -> None:
    file = secret_file(tmp_path / "token", jwt(NOW + timedelta(seconds=5)))
    credential = found({"token_file": str(file)}, clock)
    credential.current()
    clock.now += timedelta(seconds=5)
    assert refusal(credential).endswith(f"the token in {file}: it ended at 2026-11-21 12:00:05 UTC; renew it")
    ended = authority.user("pilots", life=timedelta(seconds=-10)).proxy(timedelta(hours=12))
    proxy = found({"proxy_file": str(secret_file(tmp_path / "proxy", ended.pem))})
    assert "it ended at" in refusal(proxy)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("token_file", "", "it is empty"),
        ("token_file", "two words", "it is no token"),
        ("token_file", "\x00\xff", "it is no token"),
        ("proxy_file", "", "it has no private key"),
        ("proxy_file", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nabc\n-----END", "or an encrypted one"),
        ("proxy_file", "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n", "or an encrypted one"),
        ("proxy_file", "-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----", "its certificates can't be read"),
    ],
)
def test_a_file_of_rubbish_is_refused_without_repeating_it(tmp_path: Path, name: str, text: str, words: str) -> None:
    assert words in refusal(found({name: str(secret_file(tmp_path / "file", text))}))


def test_a_certificate_without_its_key_is_refused(tmp_path: Path, authority: Authority) -> None:
    text = certificate_pem(authority.user("pilots").certificate)
    assert "it has no private key" in refusal(found({"proxy_file": str(secret_file(tmp_path / "proxy", text))}))


def test_a_file_that_is_missing_or_open_to_others_is_refused(tmp_path: Path) -> None:
    credential = found({"token_file": str(tmp_path / "token")})
    assert "No such file or directory; make it" in refusal(credential)
    for mode in (0o604, 0o644, 0o602, 0o620):
        secret_file(tmp_path / "token", jwt(None), mode)
        assert f"(mode {mode:04o}); chmod 600" in refusal(credential)
    secret_file(tmp_path / "token", jwt(None), 0o440)  # as Kubernetes mounts secrets
    assert credential.current().text == jwt(None)


def test_a_command_runs_again_at_ten_minutes_before_the_end_or_at_half_of_a_short_life(
    tmp_path: Path, clock: Clock
) -> None:
    for life, runs_at in (60.0, 50.0), (12.0, 6.0):
        clock.now = NOW
        runs = tmp_path / f"runs-{life}"
        text = f"""
            import base64, json
            runs = open({str(runs)!r}, "a+"); runs.write("x"); runs.seek(0); number = len(runs.read())
            end = {NOW.timestamp()} + number * {life * 60}
            claims = base64.urlsafe_b64encode(json.dumps(dict(exp=end, life={life})).encode()).decode()
            print(f"a.{{claims}}.{{number}}")
            """
        command = script(tmp_path, "\n".join(line.strip() for line in text.splitlines()))
        options: dict[str, object] = {"token_command": [*command, str(life)]}
        assert found(options, clock).current().text.endswith(".1")
        clock.now = NOW + timedelta(minutes=runs_at, seconds=-1)
        assert found(options, clock).current().text.endswith(".1")  # the queue is opened anew for each round
        clock.now += timedelta(seconds=1)
        assert found(options, clock).current().text.endswith(".2")
        assert found(options, clock).current().ends_at == NOW + timedelta(minutes=2 * life)


def test_a_command_that_fails_leaves_what_it_printed_before_until_its_end(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    token = secret_file(tmp_path / "printed", jwt(NOW + timedelta(hours=1)))
    options: dict[str, object] = {"token_command": f"cat {token}"}
    assert found(options, clock).current().text == token.read_text()
    text = token.read_text()
    token.unlink()
    clock.now = NOW + timedelta(minutes=59)
    assert found(options, clock).current().text == text
    clock.now = NOW + timedelta(minutes=60)
    assert "it failed with exit code 1: cat:" in refusal(found(options, clock))
    logged = capsys.readouterr()
    assert "credential_not_renewed" in logged.out + logged.err
    assert SECRET not in logged.out + logged.err


def test_what_a_command_prints_without_an_end_is_used_for_five_minutes(tmp_path: Path, clock: Clock) -> None:
    token = secret_file(tmp_path / "printed", "first")
    options: dict[str, object] = {"token_command": ["cat", str(token)]}
    assert found(options, clock).current() == CurrentCredential("first", None)
    token.write_text("second")
    clock.now += timedelta(minutes=5, seconds=-1)
    assert found(options, clock).current().text == "first"
    clock.now += timedelta(seconds=1)
    assert found(options, clock).current().text == "second"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import sys; sys.exit('not logged in')", "it failed with exit code 1: not logged in"),
        (f"import sys; sys.exit('bad token {jwt(None)}')", "it failed with exit code 1: bad token ..."),
        ("import os; os.kill(os.getpid(), 9)", "it failed with exit code -9"),
        ("", "it is empty"),
        ("print('please visit https://idp to log in')", "it is no token"),
        ("print('x' * (1 << 21))", "it printed more than 1048576 bytes"),
        ("import sys; sys.stdout.buffer.write(bytes(range(256)))", "it is no token"),
    ],
)
def test_a_command_that_fails_or_prints_rubbish_is_refused(tmp_path: Path, text: str, words: str) -> None:
    message = refusal(found({"token_command": script(tmp_path, text)}))
    assert words in message
    assert SECRET not in message


def test_a_command_that_is_not_there_is_refused() -> None:
    credential = found({"proxy_command": ["/nowhere/voms-proxy"]})
    assert "command '/nowhere/voms-proxy': it can't be started: No such file" in refusal(credential)


def test_a_command_that_hangs_is_ended_with_what_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "COMMAND_TIMEOUT", 1.0)
    note = tmp_path / "pids"
    credential = found({"token_command": ["sh", "-c", f"sleep 600 & echo $$ $! > {note}; wait"]})
    assert "it did not end within 1 s" in refusal(credential)
    pids = [int(word) for word in note.read_text().split()]
    assert len(pids) == 2
    eventually(lambda: not any(alive(pid) for pid in pids))


def test_a_command_gets_none_of_our_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_DATABASE_URL", "mysql://user:password@host/name")
    text = "import os; print('dirty' if any(name.startswith('PENSTOCK_') for name in os.environ) else 'clean')"
    assert found({"token_command": script(tmp_path, text)}).current().text == "clean"


def test_nothing_of_a_credential_is_in_what_is_shown_of_it(tmp_path: Path, authority: Authority) -> None:
    pem = authority.user("pilots").proxy(timedelta(hours=1)).pem
    for name, text in {"token_file": jwt(datetime.now(UTC) + timedelta(hours=1)), "proxy_file": pem}.items():
        credential = found({name: str(secret_file(tmp_path / name, text))})
        shown = f"{credential!r} {credential} {credential.current()!r} {credential.current()}"
        assert SECRET not in shown
        assert "PRIVATE KEY" not in shown


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"token_file": "/a", "proxy_file": "/b"}, "token_file and proxy_file exclude each other"),
        ({"token_file": "relative"}, "must be an absolute path"),
        ({"token_file": ["/a"]}, "must be an absolute path"),
        ({"token_command": []}, "must be a command line"),
        ({"token_command": ["a", 1]}, "must be a command line"),
        ({"token_command": "unbalanced 'quote"}, "No closing quotation"),
    ],
)
def test_options_that_make_no_sense_are_bad_settings(options: dict[str, object], words: str) -> None:
    with pytest.raises(BadSettings, match=words):
        find_credential("SITE.queue", options)
    assert find_credential("SITE.queue", {"url": "https://ce.example.org"}) is None
