"""What every request and every answer of the pages goes through: names, origins, headers.

There are no CSRF tokens: they break behind proxies and after restarts. A browser says itself where a request comes
from, in ``Sec-Fetch-Site`` or ``Origin``. A request without both needs a bearer token, which no browser sends by
itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse

from agent.config.settings import Address

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
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_SAFE = ("GET", "HEAD")


class Guard:
    """Wraps the application. It removes the prefix from paths: proxies may or may not do that."""

    def __init__(self, app: ASGIApp, settings: WebSettings) -> None:
        self._app = app
        self._prefix = settings.prefix
        self._named = set(settings.hosts)
        self._hosts = {"localhost", settings.address.host.lower(), *settings.hosts}

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
        return None if self._is_same_origin(host, headers) else (403, "a page of another site sent this request")

    def _is_ours(self, name: str) -> bool:
        return name in self._hosts or Address(name, 0).is_loopback

    def _is_same_origin(self, host: str, headers: Headers) -> bool:
        if (site := headers.get("Sec-Fetch-Site")) is not None:
            return site == "same-origin"
        if (origin := headers.get("Origin")) is not None:
            netloc = origin.partition("://")[2]
            # A proxy may send its own Host; then the browser's name has to be among the configured ones.
            return netloc == host or _name(netloc) in self._named
        return headers.get("Authorization", "").lower().startswith("bearer ") and "Cookie" not in headers


def _name(netloc: str) -> str:
    try:
        return (urlsplit(f"//{netloc}").hostname or "").removesuffix(".")
    except ValueError:  # half an IPv6 address
        return ""


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.update(_HEADERS)
            headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return sending
