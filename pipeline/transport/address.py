"""What a broker's URL says, for the transports whose driver doesn't read URLs of ours by itself.

SCHEME://USER:PASSWORD@HOST:PORT[,HOST:PORT...]/VHOST?OPTION=VALUE&...
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote

from pipeline.errors import BadSettings

TLS_OPTIONS = frozenset({"cafile", "certfile", "keyfile"})
"""PEM files: whom to trust beside nobody (default: the system's authorities), and who we are."""

_SETTING = "PENSTOCK_BROKER_URL"
_PLACE = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[^\[\]:@/\s]+)(?::(?P<port>[0-9]{0,5}))?")


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """A broker's URL, taken apart."""

    hosts: tuple[tuple[str, int], ...]
    """Host and port of each server, in the order of the URL."""
    user: str
    password: str = field(repr=False)
    vhost: str
    options: Mapping[str, str]
    shown: str
    """The URL without its password, for messages and logs."""

    def seconds(self, option: str, default: float) -> float:
        """A positive number of seconds. Raises BadSettings."""
        text = self.options.get(option)
        return default if text is None else positive_seconds(option, text)

    def tls_context(self) -> ssl.SSLContext:
        """Verifies the server's certificate and name. Raises BadSettings when a file can't be read."""
        try:
            context = ssl.create_default_context(cafile=self.options.get("cafile"))
            if "certfile" in self.options:
                context.load_cert_chain(self.options["certfile"], self.options.get("keyfile"))
        except (OSError, ssl.SSLError) as error:
            named = ", ".join(f"{name}={self.options[name]}" for name in sorted(TLS_OPTIONS & set(self.options)))
            raise BadSettings(f"{_SETTING}: {named}: {error}; name PEM files that can be read") from error
        return context


def positive_seconds(option: str, text: str) -> float:
    """What `text` says. Raises BadSettings unless it is a positive number."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise BadSettings(f"{_SETTING}: {option}={text!r} must be a positive number of seconds")
    return seconds


def parse_broker_address(url: str, *, port: int, user: str, options: Collection[str]) -> BrokerAddress:
    """The address in `url`; `port` and `user` are the defaults (the password is then the user's name).

    `options` are those that the caller knows. Raises BadSettings that names what is wrong, never the password.
    """
    base, _, query = url.partition("?")
    scheme, _, rest = base.partition("://")
    authority, _, path = rest.partition("/")
    login, _, places = authority.rpartition("@")
    given_user, _, given_password = login.partition(":")
    parameters = dict(parse_qsl(query, keep_blank_values=True))
    visible_login = f"{given_user}:***@" if given_password else f"{login}@" if login else ""
    shown = f"{scheme}://{visible_login}{places}" + (f"/{path}" if path else "") + _shown_query(parameters)
    if "@" in path or any("@" in name for name in parameters) or (not login and not _is_sound(places)):
        # It may be the rest of a password, so that nothing of the URL is shown.
        raise BadSettings(
            f"{_SETTING}: write {scheme}://USER:PASSWORD@HOST:PORT/VHOST with / ? and @ inside of a user, a password or"
            " a vhost as %2F, %3F and %40, and hosts as HOST, HOST:PORT or [IPV6]:PORT"
        )
    if unknown := sorted(set(parameters) - set(options)):
        raise BadSettings(f"{_SETTING}: {shown}: no option {unknown[0]!r}; there are {', '.join(sorted(options))}")
    name = unquote(given_user) or user
    return BrokerAddress(
        hosts=tuple(_host(place, port, shown) for place in places.split(",")),
        user=name,
        password=unquote(given_password) if login else name,
        vhost=unquote(path) or "/",
        options=parameters,
        shown=shown,
    )


def _shown_query(parameters: Mapping[str, str]) -> str:
    """The options but for logins inside of them."""
    shown = [f"{name}={_without_login(value)}" for name, value in parameters.items()]
    return "?" + "&".join(shown) if shown else ""


def _without_login(value: str) -> str:
    scheme, mark, rest = value.partition("://")
    login, at, place = rest.rpartition("@")
    return f"{scheme}{mark}{login.partition(':')[0]}:***@{place}" if mark and at else value


def _is_sound(places: str) -> bool:
    """Whether every colon is followed by digits, and not by what may be a password."""
    return all(_PLACE.fullmatch(place) for place in places.split(","))


def _host(place: str, default: int, shown: str) -> tuple[str, int]:
    found = _PLACE.fullmatch(place)
    port = int(found["port"] or default) if found else 0
    if found is None or not 0 < port < 65536:
        raise BadSettings(f"{_SETTING}: {shown}: {place!r} is no HOST, HOST:PORT or [IPV6]:PORT")
    return found["host"].strip("[]"), port
