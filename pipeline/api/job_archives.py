"""What a job wrote: standard output and error, read out of its archive."""

from __future__ import annotations

import io
import tarfile
import zlib

from pipeline.errors import NotFound
from pipeline.sandboxes import Sandboxes
from pipeline.store.job_queries import JobPlace
from schemas.api import JobLogs

LOG_LIMIT = 1 << 20
"""Bytes of each log that are shown: its end."""
STDOUT, STDERR = "stdout.txt", "stderr.txt"


def read_logs(sandboxes: Sandboxes, job_id: int, place: JobPlace, wanted: int | None) -> JobLogs:
    """What an attempt wrote. None: what the running one last told, else what the newest archive holds, else nothing.

    Raises NotFound for an attempt that there was not.
    """
    if wanted is not None and not 1 <= wanted <= place.attempt:
        raise NotFound(f"job {job_id} has no attempt {wanted}; there were {place.attempt} so far")
    peek = place.peek
    if peek is not None and wanted in {None, peek.attempt}:
        return _logs(job_id, place, peek.attempt).model_copy(update={"source": "peek", "stdout": peek.tail})
    found = _archive(sandboxes, job_id, place, wanted)
    if found is None:
        return _logs(job_id, place, wanted or place.attempt)
    attempt, content = found
    said = {"stdout": _member(content, STDOUT), "stderr": _member(content, STDERR)}
    return _logs(job_id, place, attempt).model_copy(update={"source": "archive", **said})


def newest_archive(sandboxes: Sandboxes, job_id: int, place: JobPlace) -> tuple[int, bytes]:
    """The newest attempt with an archive, and its tar.gz. Raises NotFound."""
    newest = sandboxes.newest_archive(place.vo, job_id)
    if newest is None:
        raise NotFound(f"job {job_id} has no archive yet; it comes with the end of its first attempt")
    return newest


def _logs(job_id: int, place: JobPlace, attempt: int) -> JobLogs:
    """Of an attempt of which nothing is known yet."""
    pilot_id = place.pilots.get(attempt)
    return JobLogs(job_id=job_id, attempt=attempt, pilot_id=pilot_id, source="none", stdout="", stderr="")


def _archive(sandboxes: Sandboxes, job_id: int, place: JobPlace, wanted: int | None) -> tuple[int, bytes] | None:
    """An attempt and its archive; the newest that there is unless one is wanted."""
    if wanted is None:
        return sandboxes.newest_archive(place.vo, job_id)
    try:
        return wanted, sandboxes.get_archive(place.vo, job_id, wanted)
    except NotFound:
        return None


def _member(content: bytes, name: str) -> str:
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
            stream = archive.extractfile(name)
            if stream is None:
                return ""
            stream.seek(max(0, archive.getmember(name).size - LOG_LIMIT))
            return stream.read(LOG_LIMIT).decode(errors="replace")
    except KeyError:
        return ""
    except (tarfile.TarError, EOFError, zlib.error) as error:
        return f"(the archive that the pilot sent can't be read: {error})\n"
