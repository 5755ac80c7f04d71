"""Listening for HTTP in the daemon's own event loop."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Self

import uvicorn

if TYPE_CHECKING:
    from starlette.types import ASGIApp

# How many connections may be open at once; more are answered 503.
MOST_CONNECTIONS = 200


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one. Raises :class:`OSError` when the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio sets TCP_NODELAY; without it every kept-alive request waits 40 ms.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(256)
    except OSError:
        sock.close()
        raise
    return sock


class _Server(uvicorn.Server):
    """Signals are the daemon's business, and so is when to stop."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.stopping = asyncio.Event()

    async def main_loop(self) -> None:
        """uvicorn looks ten times a second whether it should stop, which is most of what an idle daemon does."""
        await self.stopping.wait()
        self.should_exit = True

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()


class Listener:
    """An application on one address: ``async with Listener(app, host, port) as listener``."""

    def __init__(self, app: ASGIApp, host: str, port: int) -> None:
        """Listens at once, so that nobody is refused. Raises :class:`OSError` when the address cannot be had."""
        self._socket = bind(host, port)
        self.port = int(self._socket.getsockname()[1])
        config = uvicorn.Config(
            app, ws="none", lifespan="off", log_config=None, access_log=False, limit_concurrency=MOST_CONNECTIONS,
            timeout_graceful_shutdown=2, timeout_keep_alive=30, server_header=False, date_header=False,
        )  # fmt: skip
        self._server = _Server(config)

    async def __aenter__(self) -> Self:
        self._serving = asyncio.create_task(self._server.serve([self._socket]))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.stopping.set()
        await self._serving
