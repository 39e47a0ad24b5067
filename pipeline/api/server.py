"""The API process: opens what the routes need, listens, says that it lives, and ends cleanly."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread, current_thread, main_thread
from types import FrameType

import uvicorn
from structlog import get_logger

from pipeline.api.app import create_app
from pipeline.api.publisher import Publisher
from pipeline.api.queue_meter import measuring
from pipeline.api.services import Services
from pipeline.api.short_way import ShortWay
from pipeline.errors import BadSettings
from pipeline.health import name_for_others
from pipeline.reload import Reloader
from pipeline.runtime.instance import Instance, identify, name_instance
from pipeline.sandboxes import Sandboxes
from pipeline.settings import Settings
from pipeline.settings_check import tls_files
from pipeline.store import schema
from pipeline.store.database import Database
from pipeline.store.instances import Wish, Wishes

_GARBAGE = 20_000
"""Objects more than there were at the last collection, until the next."""

_log = get_logger("api")


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT (a second one ends at once), or until an operator drains the instance; SIGHUP
    reloads the settings.

    Raises BadSettings for a port that is taken, SchemaMismatch for a database that is too old.
    """
    database = Database(settings.resolved_database_url())
    try:
        schema.check(database)
        instance = name_instance("api")
        publisher = Publisher(settings.resolved_broker_url(), instance)
        services = Services(settings, database, publisher, Sandboxes(settings.resolved_sandbox_url()), instance)
        try:
            _serve(services)
        finally:
            publisher.close()
    finally:
        database.close()


class ApiServer(uvicorn.Server):
    """Uvicorn, which tells waiting offers that it stops; a second signal ends it at once."""

    def __init__(self, services: Services, listener: socket.socket) -> None:
        settings = services.settings
        config = uvicorn.Config(
            ShortWay(create_app(services)),
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="on",
            timeout_graceful_shutdown=_patience(settings),
            ssl_certfile=settings.api_tls_certificate,
            ssl_keyfile=settings.api_tls_key,
        )
        super().__init__(config)
        self._services = services
        self._listener = listener
        self._tls = tls_files(settings)

    def serve_forever(self) -> None:
        """Serve until `stop`."""
        self.run(sockets=[self._listener])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to serve, and to watch the worker threads."""
        await super().startup(sockets)
        self._watch = asyncio.create_task(self._services.vitals.watch(self._services.stopping))

    def adopt(self, settings: Settings) -> None:
        """Serve with other settings from the next request on, and with the certificate as it lies there now.

        Raises BadSettings for a certificate that does not do; then nothing has changed.
        """
        if self._tls is not None and self.config.ssl is not None:
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*self._tls)
                self.config.ssl.load_cert_chain(*self._tls)
            except OSError as error:
                raise BadSettings(f"PENSTOCK_API_TLS_CERTIFICATE: {' and '.join(self._tls)}: {error}") from error
        self.config.timeout_graceful_shutdown = _patience(settings)
        self._services.settings = settings

    def stop(self) -> None:
        """Finish what is being answered, then end. May be called twice, from any thread."""
        self.should_exit = True
        self._services.stopping.set()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal came. The second may have interrupted the first in `stop`, which can't be called within itself."""
        del sig, frame
        if self.should_exit:
            self.force_exit = True
        else:
            self.stop()


def listen(settings: Settings) -> socket.socket:
    """The socket to serve on. Raises BadSettings when the address is not to be had."""
    family = socket.AF_INET6 if ":" in settings.api_host else socket.AF_INET
    try:
        return socket.create_server((settings.api_host, settings.api_port), family=family, backlog=2048)
    except OSError as error:
        address = f"{settings.api_host}:{settings.api_port}"
        raise BadSettings(f"PENSTOCK_API_PORT: can't listen on {address} ({error}); 0 takes any free port") from error


def url_of(settings: Settings, listener: socket.socket) -> str:
    """Where clients on this machine reach the API that listens there."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.api_host, settings.api_host)  # noqa: S104 - compared
    return _url(settings, listener, host)


def _url(settings: Settings, listener: socket.socket, host: str) -> str:
    scheme = "https" if tls_files(settings) else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"


def _serve(services: Services) -> None:
    settings = services.settings
    with listen(settings) as listener:
        url = url_of(settings, listener)
        server = ApiServer(services, listener)
        _collect_seldom()
        with (
            _registered(services, server, _url(settings, listener, name_for_others(settings.api_host))),
            _noted(settings.resolved_data_dir() / "api.url", url),
            measuring(services),
            _signals_spent(server),
            _reloading(services, server),
        ):
            _log.info("api_started", url=url, instance=services.instance)
            server.serve_forever()
    _log.info("api_stopped", instance=services.instance)


@contextmanager
def _reloading(services: Services, server: ApiServer) -> Iterator[None]:
    """SIGHUP reloads, until the process stops."""
    reloader = Reloader(services.settings, "api", server.adopt)
    if current_thread() is main_thread():
        reloader.catch()
    Thread(target=reloader.run, args=(services.stopping,), name="reloader", daemon=True).start()
    yield


def _patience(settings: Settings) -> int:
    """Seconds that requests may take to their end when the process stops."""
    return int(settings.drain_deadline) or 1


def _collect_seldom() -> None:
    """A thousand waiting requests are many objects that live: measured, a fifth of the process's time went into looking
    through them and the modules again and again. What makes no cycles is freed without that."""
    gc.freeze()
    gc.set_threshold(_GARBAGE, 20, 50)


@contextmanager
def _noted(note: Path, url: str) -> Iterator[None]:
    """`url` stands in the data directory, for clients on this machine."""
    note.parent.mkdir(parents=True, exist_ok=True)
    partial = note.with_name(f"{note.name}.{os.getpid()}")
    partial.write_text(url + "\n")
    partial.replace(note)
    try:
        yield
    finally:
        if note.exists() and note.read_text().strip() == url:
            note.unlink(missing_ok=True)


@contextmanager
def _registered(services: Services, server: ApiServer, url: str) -> Iterator[None]:
    """The process is an instance, which an operator may drain."""

    def obey(wishes: Wishes) -> None:
        if wishes.own is Wish.DRAIN:
            server.stop()

    identity = identify("api", health_url=url, instance_id=services.instance)
    instance = Instance(services.database, identity, obey=obey)
    instance.start()
    try:
        yield
    finally:
        instance.stop()


@contextmanager
def _signals_spent(server: ApiServer) -> Iterator[None]:
    """A signal that comes before uvicorn minds them stops it as well. It raises the one that stopped it once more when
    it has ended; the process then shall end with 0."""
    if current_thread() is not main_thread():
        yield
        return
    before = {number: signal.signal(number, server.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
