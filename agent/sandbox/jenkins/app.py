"""The application: serves a model like Jenkins, and records the requests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote_plus

from starlette.middleware.gzip import GZipMiddleware

from agent.sandbox.jenkins.answers import Answer, Availability
from agent.sandbox.server import TRANSPORT, reset_connection

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from agent.sandbox.jenkins.answers import Controller


@dataclass(frozen=True, slots=True)
class Request:
    """One served request.

    ``path``: as sent, encoded and with the prefix. ``query``: decoded. ``status``: 0 if no answer was sent.
    ``size``: the bytes of the body as sent, compressed or not.
    """

    method: str
    path: str
    query: str
    status: int
    size: int

    @property
    def target(self) -> str:
        """``/job/shop/api/json?tree=builds[number]{0,5}``."""
        return f"{self.path}?{self.query}" if self.query else self.path


class Application:
    """ASGI: answers requests, records them, and lets a hook answer in place of Jenkins."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._answering: ASGIApp = GZipMiddleware(self._answer, compresslevel=6)
        self.hook: Callable[[str, str], Response | None] | None = None
        self.requests: list[Request] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        path, query = scope["raw_path"].decode("latin-1"), unquote_plus(scope["query_string"].decode("latin-1"))
        broken = self.hook(path, query) if self.hook is not None else None
        record = _Recorder(send, self.requests, scope["method"], path, query)
        try:
            if broken is None and self._controller.availability is Availability.DOWN:
                refuse(scope)
            else:
                await (broken or self._answering)(scope, receive, record)
        finally:
            record.close()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._controller.lock:
            response = Answer(self._controller, scope).response()
        await response(scope, receive, send)


def refuse(scope: Scope) -> None:
    """Break the connection. Without one, as in a test without sockets, raise the error that the client would see."""
    if TRANSPORT not in scope.get("extensions", {}):
        raise ConnectionRefusedError("Connection refused")
    reset_connection(scope)


class _Recorder:
    """Passes the answer on, and writes the record before the client has the whole answer."""

    def __init__(self, send: Send, requests: list[Request], method: str, path: str, query: str) -> None:
        self._send = send
        self._requests = requests
        self._request = (method, path, query)
        self._status = self._size = 0
        self._closed = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
        elif message["type"] == "http.response.body":
            self._size += len(message.get("body", b""))
            if not message.get("more_body", False):
                self.close()
        await self._send(message)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._requests.append(Request(*self._request, self._status, self._size))
