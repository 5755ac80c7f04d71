"""Listening for HTTP in the daemon's own event loop."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Self

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    from starlette.types import ASGIApp

# How many connections may be open at once; more are answered 503.
MOST_CONNECTIONS = 200
# So long a connection may be open without a whole question.
PATIENCE_S = 30


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


class _Protocol(H11Protocol):
    """Who connects and asks nothing, or never ends asking or sending, does not keep others out for ever.

    uvicorn's own timer begins with its first answer, and ends with the first byte of the next question.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._hang_up_at(self.loop.time() + self.timeout_keep_alive)

    def data_received(self, data: bytes) -> None:
        timer = self.timeout_keep_alive_task
        super().data_received(data)
        nothing_to_do = self.conn.their_state is h11.IDLE or self.conn.our_state is h11.DONE
        if timer is not None and self.timeout_keep_alive_task is None and nothing_to_do:
            self._hang_up_at(timer.when())

    def _hang_up_at(self, moment: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_at(moment, self.timeout_keep_alive_handler)


class Listener:
    """An application on one address: ``async with Listener(app, host, port) as listener``."""

    def __init__(self, app: ASGIApp, host: str, port: int) -> None:
        """Listens at once, so that nobody is refused. Raises :class:`OSError` when the address cannot be had."""
        self._socket = bind(host, port)
        self.port = int(self._socket.getsockname()[1])
        config = uvicorn.Config(
            app, http=_Protocol, ws="none", lifespan="off", log_config=None, access_log=False,
            limit_concurrency=MOST_CONNECTIONS, timeout_graceful_shutdown=2, timeout_keep_alive=PATIENCE_S,
            server_header=False, date_header=False,
        )  # fmt: skip
        self._server = _Server(config)

    async def __aenter__(self) -> Self:
        self._serving = asyncio.create_task(self._server.serve([self._socket]))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.stopping.set()
        await self._serving
