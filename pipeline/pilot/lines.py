"""How a pilot's calls reach the API: over HTTP, or through a spool folder where a relay picks them up."""

import ssl
import urllib.request
from typing import Any, Dict, Optional, Union

from pipeline.pilot.errors import BadOptions
from pipeline.pilot.spool import Body, SpoolLine

SPOOL_SCHEME = "spool:"


class HttpLine:
    """Straight to the API; proxies come from the usual variables. TLS is verified, always."""

    def __init__(self, api_url: str) -> None:
        self._api_url = api_url.rstrip("/")
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler(), urllib.request.HTTPSHandler(context=ssl.create_default_context())
        )

    def open(self, method: str, path: str, headers: Dict[str, str], body: Optional[Body], timeout: float) -> Any:
        """The reply, to be read and closed. Raises what urllib raises, HTTPError for a status of 400 and more."""
        request = urllib.request.Request(  # noqa: S310 - `line_to` has checked the scheme
            self._api_url + path, data=body, method=method
        )
        for name, value in headers.items():
            # unredirected: a redirect to another host must not carry the token along
            add = request.add_unredirected_header if name == "Authorization" else request.add_header
            add(name, value)
        return self._opener.open(request, timeout=timeout)


Line = Union[HttpLine, SpoolLine]


def line_to(api_url: str) -> Line:
    """By the scheme: http, https, or `spool:/FOLDER`. Raises BadOptions."""
    if api_url.startswith(("http://", "https://")):
        return HttpLine(api_url)
    folder = api_url[len(SPOOL_SCHEME) :]
    if api_url.startswith(SPOOL_SCHEME) and folder.startswith("/"):
        return SpoolLine(folder)
    raise BadOptions(
        "the API's URL must start with http://, https:// or be spool:/FOLDER with a whole path, not {!r}".format(
            api_url
        )
    )
