"""Who is calling: VOs, groups, identities and tokens. A token is kept as its SHA-256 alone."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, select, update

from pipeline.errors import BadInput, NotFound, Unauthorized
from pipeline.store.database import Transaction
from pipeline.store.tables import groups, identities, pilots, tokens, vos
from schemas.api import Role, TokenReply, TokenView

PREFIX = "pst_"
ISSUER = "penstock"
BOOTSTRAP = "bootstrap"
_VO_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
"""It is part of paths and URLs."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose token it is. A pilot is no person: it has `pilot_id` instead of `identity_id` and a group."""

    vo_id: int
    vo: str
    role: Role
    subject: str
    identity_id: int = 0
    group_id: int = 0
    group: str | None = None
    pilot_id: int | None = None


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token to be made. `expires_in` is seconds, None: never."""

    role: Role
    subject: str
    issuer: str = ISSUER
    group: str = "default"
    name: str = ""
    expires_in: float | None = None


def mint() -> str:
    """A new secret: `pst_` and 32 random bytes."""
    return PREFIX + secrets.token_urlsafe(32)


def digest(secret: str) -> str:
    """What is stored of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def authenticate(tx: Transaction, token: str) -> Caller:
    """Who calls with `token`, a person or a pilot. Raises Unauthorized for an unknown, expired or revoked one."""
    wanted = digest(token)
    row = tx.first(_token_query().where(tokens.c.digest == wanted))
    if row is None:
        return _authenticate_pilot(tx, wanted)
    if row.revoked_at is not None:
        raise Unauthorized(f"the token {row.name or row.id} was revoked; ask an operator for another")
    if row.expires_at is not None and row.expires_at <= tx.now:
        raise Unauthorized(f"the token {row.name or row.id} expired at {row.expires_at:%F %T} UTC; ask for another")
    return Caller(
        vo_id=row.vo_id,
        vo=row.vo,
        role=Role(row.role),
        subject=row.subject,
        identity_id=row.identity_id,
        group_id=row.group_id,
        group=row.group,
    )


def create_token(tx: Transaction, vo_id: int, wanted: NewToken) -> TokenReply:
    """Make a token in a VO; a person or group that is not known yet is added."""
    secret = mint()
    identity_id = ensure_identity(tx, vo_id, wanted.issuer, wanted.subject, wanted.group)
    token_id = tx.add(
        tokens,
        identity_id=identity_id,
        vo_id=vo_id,
        role=wanted.role,
        name=wanted.name,
        digest=digest(secret),
        created_at=tx.now,
        expires_at=None if wanted.expires_in is None else tx.after(wanted.expires_in),
    )
    row = tx.first(_token_query().where(tokens.c.id == token_id))
    assert row is not None
    return TokenReply(**_view(row).model_dump(), token=secret)


def list_tokens(tx: Transaction, vo_id: int, *, after: int, most: int) -> list[TokenView]:
    """Up to `most` tokens of a VO with an id above `after`, by id."""
    query = _token_query().where(tokens.c.vo_id == vo_id, tokens.c.id > after).order_by(tokens.c.id).limit(most)
    return [_view(row) for row in tx.rows(query)]


def revoke_token(tx: Transaction, vo_id: int, token_id: int) -> TokenView:
    """Revoke a token of a VO; revoking it again changes nothing. Raises NotFound."""
    mine = (tokens.c.vo_id == vo_id, tokens.c.id == token_id)
    tx.run(update(tokens).where(*mine, tokens.c.revoked_at.is_(None)).values(revoked_at=tx.now))
    row = tx.first(_token_query().where(*mine))
    if row is None:
        raise NotFound(f"there is no token {token_id} in this VO")
    return _view(row)


def bootstrap(tx: Transaction, *, vo: str = "default", group: str = "default", subject: str = "operator") -> str:
    """A new operator's token for `vo`, which is made if there is none; earlier bootstrap tokens stay valid."""
    wanted = NewToken(role=Role.OPERATOR, subject=subject, group=group, name=BOOTSTRAP)
    return create_token(tx, ensure_vo(tx, vo), wanted).token


def ensure_vo(tx: Transaction, name: str) -> int:
    """The id of the VO of this name, made if there is none. Raises BadInput for a name that is no name of a VO."""
    if not _VO_NAME.fullmatch(name):
        raise BadInput(f"{name!r} can't be a VO's name: letters, digits and ._- after a letter or digit, 63 at most")
    tx.add_missing(vos, [{"name": name}])
    return int(tx.scalar(select(vos.c.id).where(vos.c.name == name)))


def ensure_group(tx: Transaction, vo_id: int, name: str) -> int:
    """The id of the VO's share group of this name, made if there is none."""
    tx.add_missing(groups, [{"vo_id": vo_id, "name": name}])
    return int(tx.scalar(select(groups.c.id).where(groups.c.vo_id == vo_id, groups.c.name == name)))


def ensure_identity(tx: Transaction, vo_id: int, issuer: str, subject: str, group: str) -> int:
    """The id of a person in a VO; who is not known yet is added, in `group`."""
    mine = (identities.c.vo_id == vo_id, identities.c.issuer == issuer, identities.c.subject == subject)
    known = tx.scalar(select(identities.c.id).where(*mine))
    if known is None:
        group_id = ensure_group(tx, vo_id, group)
        row = {"vo_id": vo_id, "group_id": group_id, "issuer": issuer, "subject": subject}
        tx.add_missing(identities, [row])
        known = tx.scalar(select(identities.c.id).where(*mine))
    return int(known)


def vo_names(tx: Transaction) -> Sequence[str]:
    """The names of all VOs, for operators' commands that go direct."""
    return [row.name for row in tx.rows(select(vos.c.name).order_by(vos.c.name))]


def vo_name(tx: Transaction, vo_id: int) -> str:
    """A VO's name; empty where there is no such VO."""
    return str(tx.scalar(select(vos.c.name).where(vos.c.id == vo_id)) or "")


def _authenticate_pilot(tx: Transaction, wanted: str) -> Caller:
    query = (
        select(pilots.c.id, pilots.c.tag, pilots.c.vo_id, vos.c.name.label("vo"))
        .join(vos, vos.c.id == pilots.c.vo_id)
        .where(pilots.c.token_digest == wanted)
    )
    row = tx.first(query)
    if row is None:
        raise Unauthorized("the token is not known; check PENSTOCK_TOKEN, or ask an operator for one")
    return Caller(vo_id=row.vo_id, vo=row.vo, role=Role.PILOT, subject=f"pilot {row.tag}", pilot_id=row.id)


def _token_query() -> Select[Any]:
    return (
        select(
            tokens.c.id,
            tokens.c.identity_id,
            tokens.c.vo_id,
            tokens.c.name,
            tokens.c.role,
            tokens.c.created_at,
            tokens.c.expires_at,
            tokens.c.revoked_at,
            identities.c.issuer,
            identities.c.subject,
            identities.c.group_id,
            groups.c.name.label("group"),
            vos.c.name.label("vo"),
        )
        .join(identities, identities.c.id == tokens.c.identity_id)
        .join(groups, groups.c.id == identities.c.group_id)
        .join(vos, vos.c.id == tokens.c.vo_id)
    )


def _view(row: Row[Any]) -> TokenView:
    at: dict[str, datetime | None] = {name: getattr(row, name) for name in ("expires_at", "revoked_at")}
    return TokenView(
        id=row.id,
        name=row.name,
        role=Role(row.role),
        issuer=row.issuer,
        subject=row.subject,
        group=row.group,
        created_at=row.created_at,
        **at,
    )
