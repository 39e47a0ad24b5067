"""Talking to A-REX: its REST interface, version 1, over HTTPS. Everything that it says no to is BatchSystemUnavailable.

The quirks are those of 6.17: no jobs at all is an empty body, one job is no list, job by job answers come with 201 (207
in newer ones), a listing by state says the state of this moment, and a job's document says what the information system
knew a minute ago.
"""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar

import httpx

from executors.pilots.batch.arc_options import ArcOptions
from executors.pilots.batch.credentials import CredentialKind, CurrentCredential
from pipeline.errors import BatchSystemUnavailable

_AT_ONCE = 500
"""Jobs of one call: A-REX reads 1 MiB of ids at the most, and a job's document has 2 KiB."""
_PARALLEL = 4
"""Connections, for the files of jobs, which go one by one."""
_STATES = (
    *("ACCEPTING", "ACCEPTED", "PREPARING", "PREPARED", "SUBMITTING", "QUEUING", "RUNNING", "HELD", "EXITINGLRMS"),
    *("OTHER", "EXECUTED", "FINISHING", "KILLING", "FINISHED", "FAILED", "KILLED", "WIPED", "None"),
)
_WORDS = 300
"""Characters of the server's answer that an error repeats."""
_OK = frozenset({HTTPStatus.OK, HTTPStatus.CREATED, HTTPStatus.ACCEPTED, HTTPStatus.MULTI_STATUS})

T = TypeVar("T")
R = TypeVar("R")
Item = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the server says about one job: its HTTP status and its words."""

    id: str
    code: int
    reason: str

    @property
    def good(self) -> bool:
        """Whether it did as asked, or will."""
        return 200 <= self.code < 300


class ArcRest:
    """One conversation with a compute element, in one user's name. Threads may share it."""

    def __init__(self, label: str, options: ArcOptions, client: httpx.Client) -> None:
        self._label = label
        self._url = f"{options.url.rstrip('/')}/rest/1.0"
        self._client = client

    def job_ids(self) -> list[str]:
        """All jobs of this user."""
        with self._sense():
            return [str(item["id"]) for item in self._jobs("GET", "jobs")]

    def states(self) -> dict[str, str]:
        """The state of each as the job manager knows it now, which is RUNNING for all that the batch system has."""
        with self._sense():
            jobs = self._jobs("GET", "jobs", params={"state": ",".join(_STATES)})
            return {str(item["id"]): str(item.get("state", "None")) for item in jobs}

    def documents(self, ids: Sequence[str]) -> Iterator[tuple[str, Item]]:
        """What the information system says of each (GLUE 2 ComputingActivity), those that are gone left out."""
        with self._sense():
            for item in self._ask("info", ids):
                verdict = _verdict(item)
                if verdict.code == HTTPStatus.NOT_FOUND:
                    continue
                if not verdict.good:
                    raise self.unavailable(f"job {verdict.id}: {verdict.code} {verdict.reason}")
                yield verdict.id, item["info_document"]["ComputingActivity"]

    def delegations(self, ids: Sequence[str]) -> set[str]:
        """The ids of the delegations that these jobs use."""
        with self._sense():
            return {str(one) for item in self._ask("delegations", ids) for one in _listed(item.get("delegation_id"))}

    def create(self, descriptions: bytes, many: int) -> list[Verdict]:
        """Make so many jobs; what is said of each, in the order of the descriptions, with the ids of those made."""
        headers = {"Content-Type": "application/xml"}
        response = self.request(
            "POST", "jobs", accept=None, params={"action": "new"}, content=descriptions, headers=headers
        )
        if response.status_code not in _OK:
            return [Verdict("", response.status_code, _words(response))] * many
        with self._sense():
            verdicts = [_verdict(item) for item in self._items(response)]
        if len(verdicts) != many:
            raise self.unavailable(f"it was given {many} jobs, and answered for {len(verdicts)}")
        return verdicts

    def act(self, action: str, ids: Sequence[str]) -> list[Verdict]:
        """`kill` or `clean` these jobs."""
        with self._sense():
            return [_verdict(item) for item in self._ask(action, ids)]

    def put(self, job_id: str, name: str, content: bytes) -> Verdict:
        """Upload an input file of a job."""
        response = self.request("PUT", f"jobs/{job_id}/session/{name}", accept=None, content=content)
        return Verdict(job_id, response.status_code, _words(response))

    def control_file(self, job_id: str, name: str) -> str:
        """A file of A-REX's own about a job; "" where there is none."""
        response = self.request("GET", f"jobs/{job_id}/diagnose/{name}", accept=(HTTPStatus.NOT_FOUND,))
        return response.text if response.status_code == HTTPStatus.OK else ""

    def tail(self, job_id: str, name: str, limit: int) -> bytes:
        """The last bytes of a file in a job's session folder; none where there is no such file."""
        path = f"jobs/{job_id}/session/{name}"
        head = self.request("HEAD", path, accept=(HTTPStatus.NOT_FOUND,))
        size = int(head.headers.get("Content-Length", 0)) if head.status_code == HTTPStatus.OK else 0
        if size == 0:
            return b""
        kept = bytearray()
        headers = {"Range": f"bytes={max(0, size - limit)}-"}
        try:
            with self._client.stream("GET", f"{self._url}/{path}", headers=headers) as response:
                if response.status_code not in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}:
                    response.read()
                    raise self.unavailable(f"{path}: {_words(response)}")
                for chunk in response.iter_bytes():
                    kept += chunk
                    del kept[:-limit]
        except httpx.HTTPError as error:
            raise self.unavailable(f"{path}: {error or type(error).__name__}") from error
        return bytes(kept)

    def each(self, work: Callable[[T], R], things: Sequence[T]) -> list[R]:
        """The results of work on each thing, side by side. The first error ends it all."""
        if len(things) < 2:
            return [work(thing) for thing in things]
        with ThreadPoolExecutor(_PARALLEL) as pool:
            return list(pool.map(work, things))

    def request(
        self, method: str, path: str, *, accept: tuple[int, ...] | None = (), **arguments: Any
    ) -> httpx.Response:
        """A request, whose answer must be good, or one of `accept` (None: any)."""
        try:
            response = self._client.request(method, f"{self._url}/{path}", **arguments)
        except httpx.HTTPError as error:
            raise self.unavailable(str(error) or type(error).__name__) from error
        if accept is None or response.status_code in _OK or response.status_code in accept:
            return response
        raise self.unavailable(_words(response))

    def unavailable(self, what: str) -> BatchSystemUnavailable:
        """The error that says what is wrong, and where."""
        return BatchSystemUnavailable(f"queue {self._label}: A-REX at {self._url}: {what}")

    def _ask(self, action: str, ids: Sequence[str]) -> Iterator[Item]:
        """An action on jobs, in chunks, with an answer for each."""
        for start in range(0, len(ids), _AT_ONCE):
            chunk = ids[start : start + _AT_ONCE]
            some = self._jobs("POST", "jobs", params={"action": action}, json={"job": [{"id": one} for one in chunk]})
            if sorted(str(item.get("id")) for item in some) != sorted(chunk):
                raise self.unavailable(f"{action}: it was asked about {len(chunk)} jobs, and answered for {len(some)}")
            yield from some

    def _jobs(self, method: str, path: str, **arguments: Any) -> list[Item]:
        return self._items(self.request(method, path, **arguments))

    def _items(self, response: httpx.Response) -> list[Item]:
        return _listed(json.loads(response.content, strict=False)["job"]) if response.content else []

    @contextmanager
    def _sense(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self.unavailable(f"its answer makes no sense: {type(error).__name__} {error}") from error


@contextmanager
def conversation(
    label: str, options: ArcOptions, kind: CredentialKind, credential: CurrentCredential
) -> Iterator[ArcRest]:
    """A conversation with the queue's compute element. Raises BatchSystemUnavailable for credentials that don't fit."""
    headers = {"Accept": "application/json"}
    try:
        context = ssl.create_default_context(cafile=options.ca_file, capath=options.ca_dir)
        if kind is CredentialKind.PROXY:
            _show(context, credential.text)
    except OSError as error:
        raise BatchSystemUnavailable(f"queue {label}: certificates of it or of its authorities: {error}") from error
    if kind is CredentialKind.TOKEN:
        headers["Authorization"] = f"Bearer {credential.text}"
    limits = httpx.Limits(max_connections=_PARALLEL, max_keepalive_connections=_PARALLEL)
    with httpx.Client(
        verify=context, headers=headers, timeout=options.timeout, limits=limits, trust_env=False
    ) as client:
        yield ArcRest(label, options, client)


def _show(context: ssl.SSLContext, text: str) -> None:
    """OpenSSL reads certificate and key from a file alone; this one has no name and no place on a disk."""
    memory = os.memfd_create("credential")
    with os.fdopen(memory, "wb") as stream:
        stream.write(text.encode())
        stream.flush()
        context.load_cert_chain(f"/proc/self/fd/{memory}", password="")  # an encrypted key would be asked about


def _listed(found: Any) -> list[Any]:
    """One is no list there, and none is nothing."""
    if found is None or found == "":
        return []
    return found if isinstance(found, list) else [found]


def _verdict(item: Item) -> Verdict:
    return Verdict(str(item.get("id", "")), int(item["status-code"]), str(item.get("reason", "")))


def _words(response: httpx.Response) -> str:
    text = " ".join(response.text.split())[:_WORDS]
    return f"{response.status_code} {response.reason_phrase}{': ' if text else ''}{text}"
