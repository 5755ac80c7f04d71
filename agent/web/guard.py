"""What every request and every answer of the pages goes through: names, origins, headers.

There are no CSRF tokens: they break behind proxies and after restarts. A browser says itself where a request comes
from, in ``Sec-Fetch-Site`` or ``Origin``. A request without both needs a bearer token, which no browser sends by
itself.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse

from agent.config.settings import Address
from agent.model.terminal import printable

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from agent.config.settings import WebSettings

# No exceptions: there is no inline script, no inline style, and nothing of another host.
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    # Not `no-referrer`: with it, browsers send `Origin: null` with forms, also to their own site.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_SAFE = ("GET", "HEAD")
_NETLOC = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+?)\.?)(:[0-9]{1,5})?")


class Guard:
    """Wraps the application. It removes the prefix from paths: proxies may or may not do that."""

    def __init__(self, app: ASGIApp, settings: WebSettings) -> None:
        self._app = app
        self._prefix = settings.prefix
        # A bare IPv6 address gets the brackets that browsers write.
        self._named = {f"[{host}]" if host.count(":") > 1 and "[" not in host else host for host in settings.hosts}
        own = settings.address.host.lower() if isinstance(settings.address, Address) else "localhost"
        self._hosts = {"localhost", own, *map(_name, self._named)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        problem = self._problem(scope["method"], headers)
        app: ASGIApp = self._app if problem is None else PlainTextResponse(f"{problem[1]}\n", problem[0])
        path: str = scope["path"]
        if self._prefix and (path == self._prefix or path.startswith(self._prefix + "/")):
            path = path[len(self._prefix) :] or "/"
        # Without `root_path`: Starlette would cut it from paths that a proxy has cut already.
        await app({**scope, "path": path, "raw_path": path.encode()}, receive, _with_headers(send))

    def _problem(self, method: str, headers: Headers) -> tuple[int, str] | None:
        """Status and message of a request that is refused."""
        host = headers.get("Host", "")
        if not self._is_ours(_name(host)):
            return 421, "this name is not one of the agent's: add it to [web] hosts in the configuration"
        if method in _SAFE:
            return None
        if method != "POST":
            return 405, "only GET, HEAD and POST are supported"
        if self._is_same_origin(host, headers):
            return None
        origin = printable(headers.get("Origin", ""))[:200]
        return 403, (
            f"this request was not sent by a page of the agent{f', but by {origin}' if origin else ''}. If it was: a "
            "reverse proxy must pass the header Origin on, and [web] hosts must have the name that the browser shows, "
            "with its port if that is not 80 or 443"
        )

    def _is_ours(self, name: str) -> bool:
        return name in self._hosts or Address(name, 0).is_loopback

    def _is_same_origin(self, host: str, headers: Headers) -> bool:
        if (site := headers.get("Sec-Fetch-Site")) is not None:
            return site == "same-origin"
        if (origin := headers.get("Origin")) is None:
            return headers.get("Authorization", "").lower().startswith("bearer ") and "Cookie" not in headers
        netloc = origin.partition("://")[2]
        if netloc == host.lower():
            return True
        # A proxy may send its own Host, or leave its port out. But if Host has the same name with another port, it is
        # the browser's own: another service of this host has sent the request.
        return netloc in self._named and not (_name(netloc) == _name(host) and _port(host))


def _name(netloc: str) -> str:
    """The host of ``host:port`` in lower case; empty: it is not valid."""
    found = _NETLOC.fullmatch(netloc.lower())
    return "" if found is None else found[1] or found[2]


def _port(netloc: str) -> str:
    found = _NETLOC.fullmatch(netloc.lower())
    return "" if found is None else found[3] or ""


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.update(_HEADERS)
            headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return sending
