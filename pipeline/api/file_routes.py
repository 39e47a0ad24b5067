"""Sandboxes by their digest, and the file catalogue."""

from __future__ import annotations

import hashlib
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from pipeline.api.pages import cut
from pipeline.api.policy import Reader, User
from pipeline.api.services import ServicesOf
from pipeline.api.uploads import AS_BODY, Upload
from pipeline.errors import BadInput, NotFound
from pipeline.store.file_queries import FileFilter, list_files, note_sandbox, sandbox_size
from schemas.api import FilePage, FileQuery, SandboxView, Sha256

router = APIRouter(prefix="/v1", tags=["files"])
Digest = Annotated[Sha256, Path()]


@router.put("/sandboxes/{sha256}", openapi_extra=AS_BODY)
def put_sandbox(caller: User, services: ServicesOf, sha256: Digest, content: Upload) -> SandboxView:
    """Keep a tar.gz of local files under its digest; putting it again changes nothing."""
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise BadInput(f"the body's SHA-256 is {found}, not {sha256}; send it again", field="sha256")
    services.sandboxes.put(caller.vo, sha256, content)
    services.database.transact(lambda tx: note_sandbox(tx, caller.vo_id, sha256, len(content)))
    return SandboxView(sha256=sha256, size=len(content))


@router.head("/sandboxes/{sha256}", response_class=Response)
def has_sandbox(caller: User, services: ServicesOf, sha256: Digest) -> Response:
    """200 when the sandbox is there, 404 when it is to be uploaded."""
    size = services.database.read(lambda tx: sandbox_size(tx, caller.vo_id, sha256))
    if size is None or not services.sandboxes.exists(caller.vo, sha256):
        raise NotFound(f"the sandbox {sha256} was not uploaded")
    return Response(headers={"ETag": f'"{sha256}"'})


@router.get("/files")
def files(caller: Reader, services: ServicesOf, query: Annotated[FileQuery, Query()]) -> FilePage:
    """The VO's files by id, with the URLs of their replicas."""
    wanted = FileFilter(query.lfn, query.dataset)
    found = services.database.read(
        lambda tx: list_files(tx, caller.vo_id, wanted, after=query.after, most=query.limit + 1)
    )
    items, following = cut(found, query.limit)
    return FilePage(items=items, next=following)
