"""What a node would get now, without giving it."""

from __future__ import annotations

from fastapi import APIRouter

from pipeline.api.policy import User
from pipeline.api.services import ServicesOf
from pipeline.preview import Question, find_preview
from schemas.match_views import MatchRequest, MatchView

router = APIRouter(prefix="/v1", tags=["policy"])


@router.post("/match")
def preview(caller: User, services: ServicesOf, body: MatchRequest) -> MatchView:
    """The jobs of the VO that such a node would get, what is passed over and what does not suit. Changes nothing."""
    ask, question = find_preview(), Question(caller.vo_id, body)
    return services.database.read(lambda tx: ask(tx, services.settings, question))
