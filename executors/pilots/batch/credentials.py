"""Credentials of batch systems: tokens and proxies from files or commands that the site queue names.

A file is read anew each time, so that what renews it needs to tell nobody. What a command printed is kept in this
process alone, and the command runs again at the later of two moments: when half of the credential's life is over, and
ten minutes before its end (an hour's token: after 50 minutes; one of 12 minutes: after 6). A command that fails then
does no harm before the end itself. Nothing of a credential is in an error, a log, a representation or the database.
"""

from __future__ import annotations

import os
import shlex
import stat
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

from structlog import get_logger

from executors.pilots.batch.credential_command import run_command
from executors.pilots.batch.credential_ends import proxy_end, token_end
from pipeline.errors import BadSettings, BatchSystemUnavailable

OPTIONS = ("token_file", "token_command", "proxy_file", "proxy_command")
"""A queue gives one of them at the most. Files are paths, commands a list of words or a line of them."""
COMMAND_TIMEOUT = 30.0
LEAST_LEFT = timedelta(minutes=10)
UNKNOWN_LIFE = timedelta(minutes=5)
"""How long what a command printed is used when it does not say when it ends."""
LARGEST = 1 << 20
"""Bytes of a credential."""

Clock = Callable[[], datetime]
_log = get_logger("pilots")


class CredentialKind(StrEnum):
    """What it is, and so how it says when it ends."""

    TOKEN = "token"  # noqa: S105 - a word, no secret
    PROXY = "proxy"


@dataclass(frozen=True, slots=True)
class CurrentCredential:
    """What is to be shown now. `ends_at`: the `exp` of a JWT, the earliest end in the chain of X.509 certificates;
    None where it does not say."""

    text: str = field(repr=False)
    ends_at: datetime | None


@dataclass(frozen=True, slots=True)
class _Kept:
    current: CurrentCredential
    renew_at: datetime


class _Keeper:
    """What commands have printed, for all queues of this process: a queue is opened anew for each of its rounds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._locks: dict[tuple[str, ...], threading.Lock] = {}
        self.kept: dict[tuple[str, ...], _Kept] = {}

    def lock_of(self, command: tuple[str, ...]) -> threading.Lock:
        """One at a time asks a command; other commands go on."""
        with self._lock:
            return self._locks.setdefault(command, threading.Lock())


_KEEPER = _Keeper()


def utc_now() -> datetime:
    """The clock that credentials are held against."""
    return datetime.now(UTC)


class Credential:
    """Where the credential of a queue comes from: a file, or the words of a command."""

    def __init__(self, label: str, kind: CredentialKind, source: Path | tuple[str, ...], clock: Clock) -> None:
        self.kind = kind
        self._label = label
        self._source = source
        self._clock = clock

    def __repr__(self) -> str:
        return f"Credential({self._label}: {self._name})"

    def current(self) -> CurrentCredential:
        """What is to be shown now, renewed where it is time. Raises BatchSystemUnavailable when there is none."""
        source = self._source
        return self._from_file(source) if isinstance(source, Path) else self._from_command(source)

    @property
    def _name(self) -> str:
        source = self._source
        return f"the {self.kind} " + (f"in {source}" if isinstance(source, Path) else f"of command {source[0]!r}")

    def _from_file(self, file: Path) -> CurrentCredential:
        return self._not_ended(self._understood(self._read(file)))

    def _read(self, file: Path) -> str:
        try:
            with file.open("rb") as stream:
                mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
                if mode & (stat.S_IRWXO | stat.S_IWGRP):
                    raise self._unavailable(f"others than its owner may read or change it (mode {mode:04o}); chmod 600")
                return stream.read(LARGEST).decode("ascii", errors="replace")
        except OSError as error:
            raise self._unavailable(f"{error.strerror}; make it, or name another in the queue's options") from error

    def _from_command(self, command: tuple[str, ...]) -> CurrentCredential:
        with _KEEPER.lock_of(command):
            kept = _KEEPER.kept.get(command)
            if kept is not None and self._clock() < kept.renew_at:
                return kept.current
            try:
                current = self._not_ended(self._understood(self._printed(command)))
            except BatchSystemUnavailable as error:
                return self._kept_or_raise(kept, error)
            _KEEPER.kept[command] = _Kept(current, self._renewal(current))
            return current

    def _printed(self, command: tuple[str, ...]) -> str:
        try:
            return run_command(command, COMMAND_TIMEOUT, LARGEST)
        except BatchSystemUnavailable as error:
            raise self._unavailable(str(error)) from error

    def _kept_or_raise(self, kept: _Kept | None, error: BatchSystemUnavailable) -> CurrentCredential:
        ends_at = kept.current.ends_at if kept is not None else None
        if kept is None or ends_at is None or ends_at <= self._clock():
            raise error
        _log.warning("credential_not_renewed", site_queue=self._label, reason=str(error), ends_at=ends_at.isoformat())
        return kept.current

    def _renewal(self, current: CurrentCredential) -> datetime:
        now = self._clock()
        if current.ends_at is None:
            return now + UNKNOWN_LIFE
        return max(now + (current.ends_at - now) / 2, current.ends_at - LEAST_LEFT)

    def _understood(self, text: str) -> CurrentCredential:
        try:
            if self.kind is CredentialKind.PROXY:
                return CurrentCredential(text, proxy_end(text))
            token = text.strip()
            return CurrentCredential(token, token_end(token))
        except ValueError as error:
            raise self._unavailable(str(error)) from None  # the cause may quote what it could not read

    def _not_ended(self, current: CurrentCredential) -> CurrentCredential:
        if current.ends_at is not None and current.ends_at <= self._clock():
            raise self._unavailable(f"it ended at {current.ends_at:%Y-%m-%d %H:%M:%S} UTC; renew it")
        return current

    def _unavailable(self, what: str) -> BatchSystemUnavailable:
        return BatchSystemUnavailable(f"queue {self._label}: {self._name}: {what}")


def find_credential(label: str, options: Mapping[str, Any], *, clock: Clock = utc_now) -> Credential | None:
    """The credential that a queue's options name, or None. Nothing is read yet. Raises BadSettings for several."""
    given = [name for name in OPTIONS if options.get(name) is not None]
    if not given:
        return None
    if len(given) > 1:
        raise BadSettings(f"queue {label}: options {' and '.join(given)} exclude each other; keep one")
    kind, _, source = given[0].partition("_")
    read = _path if source == "file" else _words
    return Credential(label, CredentialKind(kind), read(label, given[0], options[given[0]]), clock)


def _path(label: str, name: str, value: object) -> Path:
    if not isinstance(value, str) or not value.startswith("/"):
        raise BadSettings(f"queue {label}: option {name} must be an absolute path, not {value!r}")
    return Path(value)


def _words(label: str, name: str, value: object) -> tuple[str, ...]:
    try:
        words = shlex.split(value) if isinstance(value, str) else value
    except ValueError as error:
        raise BadSettings(f"queue {label}: option {name}: {error}") from error
    if not isinstance(words, list) or not words or not all(isinstance(word, str) and word for word in words):
        raise BadSettings(f"queue {label}: option {name} must be a command line, or a list of its words")
    return tuple(words)
