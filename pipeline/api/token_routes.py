"""Tokens of the caller's VO, and who the caller is."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query

from pipeline.api.pages import cut
from pipeline.api.policy import Operator, Reader
from pipeline.api.services import ServicesOf
from pipeline.store.access import NewToken, create_token, list_tokens, revoke_token
from schemas.api import Page, Role, TokenPage, TokenReply, TokenRequest, TokenView, WhoAmI
from schemas.bounds import RowId

router = APIRouter(prefix="/v1", tags=["access"])


@router.post("/tokens", status_code=201)
def create(caller: Operator, services: ServicesOf, body: TokenRequest) -> TokenReply:
    """A token in the caller's VO; the answer is the only place that ever shows it."""
    wanted = NewToken(
        role=Role(body.role),
        subject=body.subject,
        issuer=body.issuer,
        group=body.group,
        name=body.name,
        expires_in=body.expires_in,
    )
    return services.database.transact(lambda tx: create_token(tx, caller.vo_id, wanted))


@router.get("/tokens")
def list_(caller: Operator, services: ServicesOf, query: Annotated[Page, Query()]) -> TokenPage:
    """The VO's tokens, without their secrets."""
    found = services.database.read(lambda tx: list_tokens(tx, caller.vo_id, after=query.after, most=query.limit + 1))
    items, following = cut(found, query.limit)
    return TokenPage(items=items, next=following)


@router.delete("/tokens/{token_id}")
def revoke(caller: Operator, services: ServicesOf, token_id: Annotated[RowId, Path()]) -> TokenView:
    """Revoke a token, at once and for good."""
    return services.database.transact(lambda tx: revoke_token(tx, caller.vo_id, token_id))


@router.get("/whoami")
def whoami(caller: Reader) -> WhoAmI:
    """Whose token this is and what it may do."""
    return WhoAmI(subject=caller.subject, vo=caller.vo, group=caller.group, role=caller.role)
