"""Whether everything serves: the API answers and the consumer has registered."""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request

from pipeline.errors import DatabaseUnavailable
from pipeline.settings import Settings
from pipeline.store import instances
from pipeline.store.database import Database

_TIMEOUT = 2.0


def noted_url(settings: Settings) -> str | None:
    """Where our own API listens, once it has said so."""
    note = settings.resolved_data_dir() / "api.url"
    return note.read_text().strip() if note.exists() else None


def api_answers(settings: Settings, url: str) -> bool:
    """Whether the API at `url` is ready."""
    context = None
    if settings.api_tls_certificate is not None and url.startswith("https:"):
        context = ssl.create_default_context(cafile=str(settings.api_tls_certificate))
        context.check_hostname = False  # the certificate names the public host, we ask on this machine
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=_TIMEOUT, context=context) as reply:  # noqa: S310 - ours
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def has_registered(database: Database, pid: int | None) -> bool:
    """Whether the process `pid` of this machine says that it runs."""
    try:
        rows = database.transact(instances.list_instances)
    except DatabaseUnavailable:
        return False
    return any(row.pid == pid for row in rows)
