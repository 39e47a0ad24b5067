"""What sends spans somewhere: found by the scheme of PENSTOCK_TRACES_URL among entry points, loaded only then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Protocol
from urllib.parse import urlsplit

from pipeline.errors import BadSettings
from pipeline.traces.life import Span


class Exporter(Protocol):
    """A place that spans are sent to."""

    def send(self, spans: Sequence[Span]) -> None:
        """Return only when the place took the request; of what it left out of it, its own log tells.

        Raises TracesUnavailable within a few seconds.
        """

    def close(self) -> None:
        """Give the connection up."""


Opener = Callable[[str], Exporter]


def find_exporter(url: str) -> EntryPoint:
    """What serves PENSTOCK_TRACES_URL, not loaded. Raises BadSettings where nothing does."""
    try:
        scheme = urlsplit(url).scheme
    except ValueError as error:
        raise BadSettings(f"PENSTOCK_TRACES_URL: {url!r} is no URL: {error}") from error
    found = {entry.name: entry for entry in entry_points(group="penstock.trace_exporters")}
    if scheme not in found:
        known = ", ".join(sorted(found))
        raise BadSettings(f"PENSTOCK_TRACES_URL: no exporter serves {scheme!r}; there are {known}")
    return found[scheme]


def open_exporter(url: str) -> Exporter:
    """The exporter for `url`.

    Raises BadSettings for a scheme that nothing serves, and where its library is missing or refuses its own settings.
    """
    found = find_exporter(url)
    try:
        opener: Opener = found.load()
        return opener(url)
    except BadSettings:
        raise
    except ModuleNotFoundError as error:
        raise BadSettings(f"PENSTOCK_TRACES_URL: {error.name} is missing: pip install 'penstock[traces]'") from error
    except Exception as error:  # whatever a library makes of what it reads itself
        raise BadSettings(
            f"PENSTOCK_TRACES_URL: its library refuses its settings, maybe a variable OTEL_...: {error}"
        ) from error
