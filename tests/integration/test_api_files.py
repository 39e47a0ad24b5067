"""Sandboxes, logs, archives and outputs over HTTP."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest

from pipeline.api.uploads import MIB
from pipeline.errors import BadInput, NotFound
from pipeline.store.database import Transaction
from pipeline.store.tables import datasets, files, peeks, replicas, storages
from pipeline.unpacking import unpack
from schemas.api import FileQuery, Role
from schemas.campaign import Campaign
from tests.api_server import RunningApi, running_api


def packed(**content: bytes) -> bytes:
    """A tar.gz of these files; `__` in a name stands for a dot."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, text in content.items():
            entry = tarfile.TarInfo(name.replace("__", "."))
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text))
    return stream.getvalue()


def submit_one(api: RunningApi) -> int:
    """The id of the one job of a new campaign."""
    step = {"name": "s", "command": ["true"]}
    with api.client() as client:
        client.submit(Campaign.model_validate({"campaign": "c", "steps": [step]}))
        return client.jobs().items[-1].id


@pytest.fixture(scope="module", params=["sqlite", "mariadb"])
def shared_api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    on_mariadb = request.param == "mariadb"
    url = request.getfixturevalue("mariadb_server").new_database() if on_mariadb else ""
    with running_api(tmp_path_factory.mktemp("api"), database_url=url, sandbox_limit=1) as running:
        yield running


def test_a_sandbox_is_uploaded_once_and_found_by_its_digest(api: RunningApi) -> None:
    content = packed(run=b"#!/bin/sh\n")
    with api.client() as client:
        digest = client.upload_sandbox(content)
        assert digest == hashlib.sha256(content).hexdigest()
        assert client.upload_sandbox(content) == digest
        step = {"name": "s", "command": ["./run"], "sandbox": ["run"]}
        description = Campaign.model_validate({"campaign": "c", "steps": [step]})
        assert client.submit(description, {"s": digest}).jobs == 1
    assert api.services.sandboxes.get(api.vo, digest) == content


def test_a_sandbox_of_another_vo_is_not_there(api: RunningApi) -> None:
    with api.client() as client:
        digest = client.upload_sandbox(b"only ours")
    with api.client(vo="elsewhere") as stranger, pytest.raises(NotFound):
        stranger.request("HEAD", f"/v1/sandboxes/{digest}")


def test_a_sandbox_with_another_digest_is_refused(api: RunningApi) -> None:
    with api.client() as client, pytest.raises(BadInput, match="SHA-256") as caught:
        client.request("PUT", f"/v1/sandboxes/{'0' * 64}", content=b"something else")
    assert caught.value.field == "sha256"


def test_a_sandbox_above_the_limit_is_refused_whether_or_not_its_length_is_said(api: RunningApi) -> None:
    large = bytes(MIB + 1)
    path = f"/v1/sandboxes/{hashlib.sha256(large).hexdigest()}"
    with api.http(api.token(Role.USER)) as http:
        said = http.put(path, content=large)
        unsaid = http.put(path, content=(large[start : start + 65_536] for start in range(0, len(large), 65_536)))
    assert (said.status_code, unsaid.status_code) == (413, 413)
    assert "may have 1 MiB" in said.json()["detail"]
    assert not api.services.sandboxes.exists(api.vo, hashlib.sha256(large).hexdigest())


def test_logs_come_from_the_newest_archive(api: RunningApi) -> None:
    job_id = submit_one(api)
    with api.client() as client:
        assert (client.logs(job_id).source, client.logs(job_id).stdout) == ("none", "")
        with pytest.raises(NotFound, match="has no archive yet"):
            client.archive(job_id)
        api.services.sandboxes.put_archive(api.vo, job_id, 9, packed(stdout__txt=b"old", stderr__txt=b""))
        newest = packed(stdout__txt=b"out\n", stderr__txt=b"err\n", plot__png=b"png")
        api.services.sandboxes.put_archive(api.vo, job_id, 10, newest)
        logs = client.logs(job_id)
        assert (logs.source, logs.attempt, logs.stdout, logs.stderr) == ("archive", 10, "out\n", "err\n")
        assert client.archive(job_id) == newest


def test_logs_of_a_running_job_are_what_its_pilot_last_told_wherever_archives_are(
    api: RunningApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submit_one(api)

    def peek(tx: Transaction) -> None:
        tx.add(peeks, job_id=job_id, attempt=2, wall_time=1, cpu_time=1, memory=1, tail="step 7\n", at=tx.now)

    api.database.transact(peek)
    monkeypatch.setattr(api.services.sandboxes, "archived_attempts", Mock(side_effect=AssertionError("not needed")))
    with api.client() as client:
        logs = client.logs(job_id)
        assert (logs.source, logs.attempt, logs.stdout) == ("peek", 2, "step 7\n")
        view = client.job(job_id).peek
        assert view is not None
        assert view.tail == "step 7\n"


def test_a_broken_archive_shows_as_a_note_in_the_log(api: RunningApi) -> None:
    job_id = submit_one(api)
    api.services.sandboxes.put_archive(api.vo, job_id, 1, gzip.compress(b"x" * 5000)[:40])
    with api.client() as client:
        assert "can't be read" in client.logs(job_id).stdout


def test_outputs_and_files_carry_the_urls_of_their_replicas(api: RunningApi) -> None:
    job_id = submit_one(api)
    vo_id = api.vo_id(api.vo)

    def register(tx: Transaction) -> str:
        storage = tx.add(storages, name=f"disk-{api.vo}", kind="file", url="file:///data/", declared=True)
        name = f"dataset of {api.vo}"
        dataset = tx.add(datasets, vo_id=vo_id, name=name, state="open")
        for number in range(3):
            lfn = f"/{api.vo}/{'ab'[number % 2]}/{number}"
            file_id = tx.add(
                files,
                vo_id=vo_id,
                lfn=lfn,
                dataset_id=dataset,
                job_id=job_id,
                attempt=1,
                name=str(number),
                size=1,
                adler32="00000001",
                created_at=tx.now,
            )
            tx.add(replicas, file_id=file_id, storage_id=storage, path=f"p/{number}", state="usable")
        return name

    dataset = api.database.transact(register)
    with api.client() as client, api.client(vo="elsewhere") as stranger:
        outputs = client.outputs(job_id)
        assert [file.replicas[0].url for file in outputs] == [f"file:///data/p/{number}" for number in range(3)]
        page = client.files(FileQuery(dataset=dataset, limit=2))
        rest = client.files(FileQuery(dataset=dataset, limit=2, after=page.next or 0))
        assert [file.name for file in (*page.items, *rest.items)] == ["0", "1", "2"]
        assert rest.next is None
        assert [file.name for file in client.files(FileQuery(lfn=f"/{api.vo}/a/")).items] == ["0", "2"]
        assert not client.files(FileQuery(lfn=f"/{api.vo}/A/")).items
        assert not stranger.files(FileQuery(dataset=dataset)).items


def test_an_archive_unpacks_into_the_folder(tmp_path: Path) -> None:
    found = unpack(packed(stdout__txt=b"out", **{"plots/one__png": b"png"}), tmp_path / "job")
    assert found == [Path("plots/one.png"), Path("stdout.txt")]
    assert (tmp_path / "job/plots/one.png").read_bytes() == b"png"
    assert [path.name for path in tmp_path.iterdir()] == ["job"]


@pytest.mark.parametrize("name", ["../outside__txt", "/outside__txt", "a/../../outside__txt"])
def test_an_archive_that_leaves_the_folder_is_refused_and_nothing_unpacked(tmp_path: Path, name: str) -> None:
    target = tmp_path / "inner" / "job"
    with pytest.raises(BadInput, match="would leave"):
        unpack(packed(good__txt=b"good", **{name: b"x"}), target)
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["inner"]


def test_an_archive_with_a_link_is_refused(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        link = tarfile.TarInfo("innocent")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(BadInput, match="no regular file"):
        unpack(stream.getvalue(), tmp_path / "job")
    assert not list(tmp_path.iterdir())


def test_an_archive_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"no archive", packed(a=b"x" * 100)[:-30]):
        with pytest.raises(BadInput, match="can't be read"):
            unpack(content, tmp_path / "job")
    assert not list(tmp_path.iterdir())
