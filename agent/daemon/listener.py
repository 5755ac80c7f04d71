"""HTTP listeners in the event loop of the daemon."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Self, cast

import h11
import structlog
import uvicorn
from starlette.responses import PlainTextResponse
from uvicorn.protocols.http.h11_impl import H11Protocol

from agent.config.settings import SocketFile
from agent.model.secrets import redact
from agent.model.sockets import bind, bind_file

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.types import ASGIApp, Message, Receive, Scope, Send
    from uvicorn.protocols.http.h11_impl import RequestResponseCycle

    from agent.config.settings import Address

log = structlog.get_logger("service")

# Most connections of a listener at a time. For a new one, the oldest is closed whose request has not arrived, or that
# is idle, or whose client does not read its answer. If there is none, the new one gets 503.
MOST_CONNECTIONS = 200
# Connections that are accepted in one turn of the event loop, and that wait in the kernel.
BACKLOG = 64
# How long a connection can be open without a complete request.
PATIENCE_S = 30


_TOO_MANY = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 5\r\nContent-Type: text/plain\r\n"
    b"Content-Length: 21\r\n\r\ntoo many connections\n"
)
_STOPPING = PlainTextResponse("the agent stops; try again\n", 503, {"Retry-After": "5", "Connection": "close"})


class _Server(uvicorn.Server):
    """A server without its own signal handlers; the daemon stops it."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.stopping = asyncio.Event()

    async def main_loop(self) -> None:
        """Replaces uvicorn's loop, whose ten checks a second are most of an idle daemon's CPU time."""
        await self.stopping.wait()
        self.should_exit = True

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()


class _Protocol(H11Protocol):
    """Limits idle and slow connections, so that they cannot block others.

    uvicorn's own timeout starts after the first answer and ends with the first byte of the next request.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._since = self.loop.time()
        self._answered: object = None
        self._hang_up_at(self._since + self.timeout_keep_alive)
        if len(self.connections) > MOST_CONNECTIONS:
            self._make_room()

    def _make_room(self) -> None:
        """Close the least useful connection, or this one if all others are being answered."""
        others = [
            each
            for each in self.connections
            if isinstance(each, _Protocol) and (each.is_idle or each.is_arriving) and each != self
        ]
        idle = min(others, key=_Protocol._usefulness, default=None)
        if idle is not None:
            idle.transport.abort()
            self.connections.discard(idle)
            return
        self.transport.write(_TOO_MANY)
        self.transport.close()
        self.connections.discard(self)

    def _usefulness(self) -> tuple[bool, bool, float]:
        """Lower for those that are closed first: without a complete request for long, unused for long, not read."""
        cycle = cast("RequestResponseCycle | None", self.cycle)
        return self.flow.write_paused, cycle is not None and not self.is_arriving, self._since

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered, or its client does not read the answer."""
        cycle = cast("RequestResponseCycle | None", self.cycle)  # None before the first request
        return cycle is None or cycle.response_complete or self.flow.write_paused

    @property
    def is_arriving(self) -> bool:
        """Whether the body of the request has not arrived completely."""
        cycle = cast("RequestResponseCycle | None", self.cycle)
        return cycle is not None and cycle.more_body and not cycle.response_complete

    def data_received(self, data: bytes) -> None:
        timer = self.timeout_keep_alive_task
        super().data_received(data)
        if self.cycle is not self._answered:
            self._answered, self._since = self.cycle, self.loop.time()
        nothing_to_do = self.conn.their_state is h11.IDLE or self.conn.our_state is h11.DONE
        if timer is not None and self.timeout_keep_alive_task is None and nothing_to_do:
            self._hang_up_at(timer.when())

    def _hang_up_at(self, moment: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_at(moment, self.timeout_keep_alive_handler)


class _Redacting:
    """Removes secrets from answers. An answer in one piece is checked as a whole."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message | None = None
        self.has_begun = False

    async def __call__(self, message: Message) -> None:
        self.has_begun = True
        if message["type"] == "http.response.start":
            self._start = message  # because it has the length of the body
            return
        body = message.get("body", b"")
        clean = redact(body.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
        if self._start is not None:
            start, self._start = self._start, None
            if clean != body:
                length = str(len(clean)).encode()
                headers = [(name, length if name == b"content-length" else value) for name, value in start["headers"]]
                start = {**start, "headers": headers}
            await self._send(start)
        await self._send({**message, "body": clean})


class Listener:
    """An application on one address: ``async with Listener(app, address) as listener``.

    ``app`` can be replaced at any time; later requests use the new one.
    """

    def __init__(self, app: ASGIApp, address: Address | SocketFile) -> None:
        """Listens at once, so that no connection is refused. Raises :class:`OSError` if the address cannot be used."""
        self.app = app
        self._file: tuple[Path, int] | None = None  # of a Unix socket, with its inode
        if isinstance(address, SocketFile):
            self._socket = bind_file(address.path)
            self._file = address.path, address.path.stat().st_ino
            self.url = str(address)
        else:
            self._socket = bind(address.host, address.port)
            self.port = int(self._socket.getsockname()[1])
            self.url = f"http://{replace(address, port=self.port)}"
        config = uvicorn.Config(
            self._answer, interface="asgi3", http=_Protocol, ws="none", lifespan="off", log_config=None,
            access_log=False, server_header=False, date_header=False,
            proxy_headers=False,  # any process of this machine can send X-Forwarded-For
            backlog=BACKLOG, timeout_graceful_shutdown=2, timeout_keep_alive=PATIENCE_S,
        )  # fmt: skip
        self._server = _Server(config)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        answering = _Redacting(send)
        try:
            await self.app(scope, receive, answering)
        except asyncio.CancelledError:  # uvicorn gives up what is not answered when the listener closes
            if answering.has_begun or not self._server.stopping.is_set():
                raise
            await _STOPPING(scope, receive, send)

    async def __aenter__(self) -> Self:
        self._serving = asyncio.create_task(self._server.serve([self._socket]))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.stopping.set()
        await self._serving
        if self._file is not None:
            path, inode = self._file
            with suppress(FileNotFoundError):
                if path.stat().st_ino == inode:  # else another process listens there now
                    path.unlink()


class Listeners:
    """The listeners of the daemon by purpose. A listener stays open while its address stays the same."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[Address | SocketFile, Listener]] = {}

    async def listen(self, what: str, address: Address | SocketFile | None, app: ASGIApp) -> None:
        """Serve ``app`` at this address; None: stop serving it.

        If the port is in use, the error is logged, and the next call tries again. Delivery must not depend on it.
        """
        if what in self._open and self._open[what][0] == address:
            self._open[what][1].app = app
            return
        await self.close(what)
        if address is None:
            return
        try:
            listener = Listener(app, address)
        except OSError as error:
            reason = f"{error.strerror}; set [{what}] listen to another address"
            log.error("cannot listen", what=what, address=str(address), reason=reason)
            return
        self._open[what] = address, await listener.__aenter__()
        log.info("listening", what=what, url=listener.url)

    async def close(self, what: str) -> None:
        """Stop listening. Current requests are answered, within two seconds."""
        if what in self._open:
            _, listener = self._open.pop(what)
            await listener.__aexit__()

    async def close_all(self) -> None:
        """Close all listeners; see :meth:`close`."""
        await asyncio.gather(*(self.close(what) for what in list(self._open)))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close_all()
