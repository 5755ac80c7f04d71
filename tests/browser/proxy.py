"""A reverse proxy as people put in front of the pages. It counts what the browser had to load."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
from starlette.requests import Request
from starlette.responses import Response

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

_OF_A_CONNECTION = ("connection", "content-length", "host", "keep-alive", "transfer-encoding")


class ReverseProxy:
    """Passes ``prefix`` and what is below it on to ``target``; with ``strips``, without the prefix.

    ``passes_host``: the agent sees the name that the browser used. ``loaded``: bytes of each body, by path.
    """

    def __init__(self, target: str, prefix: str = "", *, strips: bool = False, passes_host: bool = True) -> None:
        self._target = target
        self._prefix = prefix
        self._strips = strips
        self._passes_host = passes_host
        self.loaded: list[tuple[str, int]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        path: str = scope["path"]
        if not path.startswith(self._prefix):
            await Response("not of the agent", 404)(scope, receive, send)
            return
        if self._strips:
            path = path.removeprefix(self._prefix)
        query = f"?{scope['query_string'].decode()}" if scope["query_string"] else ""
        headers = [(name, value) for name, value in request.headers.items() if name not in _OF_A_CONNECTION]
        if self._passes_host:
            headers.append(("host", request.headers["host"]))
        async with httpx.AsyncClient(trust_env=False, timeout=120) as client:
            answer = await client.request(
                request.method, self._target + path + query, headers=headers, content=await request.body()
            )
        self.loaded.append((scope["path"], len(answer.content)))
        response = Response(answer.content, answer.status_code)
        response.raw_headers = [
            (name.lower(), value)
            for name, value in answer.headers.raw
            if name.lower() not in (b"connection", b"content-encoding", b"transfer-encoding", b"content-length")
        ]
        response.raw_headers.append((b"content-length", str(len(answer.content)).encode()))
        await response(scope, receive, send)
