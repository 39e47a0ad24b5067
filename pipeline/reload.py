"""Settings taken on anew at SIGHUP: read and checked as a whole when the signals have ended, then all of them or none.

A process calls `catch` early, in its main thread, and `look` now and then as long as it does not stop. Who reads which
settings when is the process's own business: it is handed the new ones.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from threading import Event
from types import FrameType

from structlog import get_logger

from pipeline.errors import PenstockError
from pipeline.logs import configure_logging
from pipeline.settings import Settings
from pipeline.settings_check import check_settings
from pipeline.settings_file import load_settings

QUIET = 0.5
"""Seconds without another signal after which settings are read."""
PATIENCE = 5.0
"""Seconds after the first signal at which they are read, however many go on coming."""
NEEDS_RESTART = frozenset(
    {
        *("data_dir", "database_url", "broker_url", "sandbox_url", "settings_file"),
        *("api_host", "api_port", "api_tls_certificate", "api_tls_key", "health_host", "health_port"),
    }
)
"""What stays as it is until the process is started again: what it listens on, and where it keeps things."""
LOOK = 0.1
"""Seconds between two looks of `run`."""

_log = get_logger("settings")


class Reloader:
    """The settings in force, `settings`, and what it takes to exchange them."""

    def __init__(self, settings: Settings, kind: str, adopt: Callable[[Settings], None]) -> None:
        """`kind` names the process in its log. `adopt` takes new settings on, in the thread that looks; when it raises,
        it has taken on nothing."""
        self.settings = settings
        self._kind = kind
        self._adopt = adopt
        self._first: float | None = None
        self._last = 0.0
        self._has_terminal = False
        self._hung_up = False

    def catch(self) -> None:
        """Mind SIGHUP from now on; one that a supervisor held back meanwhile comes now.

        A terminal that goes away says so by SIGHUP, too: that still ends who was started on it, unless by nohup.
        """
        self._has_terminal = signal.getsignal(signal.SIGHUP) is signal.SIG_DFL and _is_on_terminal()
        signal.signal(signal.SIGHUP, self._on_signal)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})

    @property
    def due(self) -> bool:
        """Whether settings were to be read again by now."""
        first, now = self._first, time.monotonic()
        return first is not None and (now - self._last >= QUIET or now - first >= PATIENCE)

    def look(self) -> None:
        """Reload if that is due. Raises nothing: settings that can't be taken on are told, and change nothing."""
        if not self.due:
            return
        self._first = None  # a signal from now on means a file that may have changed once more
        try:
            self._reload()
        except PenstockError as error:
            _log.error("settings_refused", error=str(error), file=self._file)
        except Exception:  # noqa: BLE001 - the boundary: a process that works goes on with what it has
            _log.exception("settings_refused", file=self._file)

    def run(self, stopping: Event) -> None:
        """Look until `stopping` is set: for a process whose own loop is another's."""
        while not stopping.wait(LOOK):
            self.look()

    @property
    def _file(self) -> str | None:
        return None if self.settings.settings_file is None else str(self.settings.settings_file)

    def _reload(self) -> None:
        said = load_settings()
        check_settings(said)
        differing = {name for name in Settings.model_fields if getattr(said, name) != getattr(self.settings, name)}
        kept = {name: getattr(self.settings, name) for name in differing & NEEDS_RESTART}
        wanted = said.model_copy(update=kept)
        self._adopt(wanted)
        self.settings = wanted
        configure_logging(wanted, self._kind)
        changed = differing - NEEDS_RESTART
        _log.info("settings_reloaded", changed=_words(changed) or "nothing", file=self._file)
        if kept:
            _log.warning("needs_restart", settings=_words(kept))

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        """Notes the time and no more: what it interrupted may hold any lock."""
        if self._has_terminal and not self._hung_up and not _is_on_terminal():
            self._hung_up = True
            os.kill(os.getpid(), signal.SIGTERM)
        self._last = time.monotonic()
        if self._first is None:
            self._first = self._last


def _words(names: set[str] | dict[str, object]) -> str:
    return " ".join(sorted(f"PENSTOCK_{name.upper()}" for name in names))


def _is_on_terminal() -> bool:
    """Whether there is a terminal that controls this process, and it has not gone away."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
