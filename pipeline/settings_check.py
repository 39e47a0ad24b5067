"""Whether settings can be served: what they name is installed, and numbers that belong together fit."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from urllib.parse import urlsplit

from pipeline.errors import BadSettings
from pipeline.runtime.spec import declared_queues
from pipeline.sandboxes import check_url
from pipeline.scaling import Bounds, bounds_of
from pipeline.settings import Settings
from pipeline.store.database import Database
from pipeline.traces.port import find_exporter
from pipeline.transport.port import open_transport
from pipeline.trigger import find_triggers


def check_settings(settings: Settings) -> None:
    """Check all of them, whichever process asks, so that none takes on what another refuses. It connects to nothing.

    Raises BadSettings for the first thing that is wrong.
    """
    _check_names("PENSTOCK_OPTIMISERS", "optimiser", "penstock.optimisers", settings.optimisers)
    _check_names("PENSTOCK_DEMAND_SOURCES", "demand source", "penstock.demand_sources", settings.demand_sources)
    find_triggers(settings)
    queue_bounds(settings)
    if settings.traces_url:
        find_exporter(settings.traces_url)
    tls_files(settings)
    _check_api_url(settings.api_url)
    check_url(settings.resolved_sandbox_url())
    open_transport(settings.resolved_broker_url(), "check").close()
    Database(settings.resolved_database_url()).close()


def queue_bounds(settings: Settings) -> Mapping[str, Bounds]:
    """Between which numbers of consumers each queue is scaled. Raises BadSettings for a queue that nobody serves."""
    queues = declared_queues()
    unknown = sorted({*settings.least_workers, *settings.most_workers} - set(queues))
    if unknown:
        raise BadSettings(
            f"PENSTOCK_LEAST_WORKERS, PENSTOCK_MOST_WORKERS: there is no queue {unknown[0]!r}; "
            f"there are {', '.join(queues)}"
        )
    return {queue: bounds_of(queue, settings.least_workers, settings.most_workers) for queue in queues}


def tls_files(settings: Settings) -> tuple[str, str] | None:
    """The API's certificate and its key; None for none. Raises BadSettings for one without the other."""
    if settings.api_tls_certificate is None and settings.api_tls_key is None:
        return None
    if settings.api_tls_certificate is None or settings.api_tls_key is None:
        raise BadSettings("PENSTOCK_API_TLS_CERTIFICATE and PENSTOCK_API_TLS_KEY go together; set both or none")
    return str(settings.api_tls_certificate), str(settings.api_tls_key)


def _check_api_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        fits = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fits = False
    if url and not fits:
        raise BadSettings(f"PENSTOCK_API_URL: {url!r} is no address of an API; write https://HOST or https://HOST:PORT")


def _check_names(setting: str, what: str, group: str, names: tuple[str, ...]) -> None:
    found = {entry.name for entry in entry_points(group=group)}
    unknown = [name for name in names if name not in found]
    if unknown:
        raise BadSettings(f"{setting}: no {what} is named {unknown[0]!r}; there are {', '.join(sorted(found))}")
