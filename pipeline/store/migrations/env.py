"""What Alembic runs for each command: the caller's connection, our tables, our types written out.

A migration must mean the same in a year, so a draft spells our column types in SQLAlchemy's words and
never imports `tables.py`.
"""

from __future__ import annotations

from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext

from pipeline.store import tables

_SPELLED = (
    (tables.UtcDateTime, "UtcDateTime"),
    (tables.Id, "Id"),
    (tables.LongText, "LongText"),
    (tables.Exact, "Exact"),
)
"""Types that `script.py.mako` defines at the head of each migration."""


def spell(kind: str, item: Any, autogen: AutogenContext) -> str | Literal[False]:
    """Alembic's `render_item`: the name of one of our types, or False for its own way."""
    del autogen
    if kind != "type":
        return False
    if isinstance(item, tables.UtcDateTime):
        return "UtcDateTime"
    return next((name for ours, name in _SPELLED if item is ours), False)


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=tables.metadata,
    render_item=spell,
    compare_server_default=False,
)
with context.begin_transaction():
    context.run_migrations()
