"""Listening for HTTP in the daemon's own event loop."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Self, cast

import h11
import structlog
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from agent.model.secrets import redact
from agent.model.sockets import bind

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
    from uvicorn.protocols.http.h11_impl import RequestResponseCycle

    from agent.config.settings import Address

log = structlog.get_logger("service")

# How many connections a listener may have at once. Whoever asks something goes before those who ask nothing: they are
# closed for it, the oldest first. When all of them are being answered, one more gets 503.
MOST_CONNECTIONS = 200
# So many are accepted in one turn of the event loop, before any of them can be closed, and wait in the kernel.
BACKLOG = 64
# So long a connection may be open without a whole question.
PATIENCE_S = 30


_TOO_MANY = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 5\r\nContent-Type: text/plain\r\n"
    b"Content-Length: 21\r\n\r\ntoo many connections\n"
)


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
        self._since = self.loop.time()
        self._hang_up_at(self._since + self.timeout_keep_alive)
        if len(self.connections) > MOST_CONNECTIONS:
            self._make_room()

    def _make_room(self) -> None:
        """Close the connection that asks nothing for the longest time; this one, if all others are being answered."""
        others = [each for each in self.connections if isinstance(each, _Protocol) and each.is_idle and each != self]
        idle = min(others, key=lambda each: (each.cycle is not None, each._since), default=None)
        if idle is not None:
            idle.transport.abort()
            self.connections.discard(idle)
            return
        self.transport.write(_TOO_MANY)
        self.transport.close()
        self.connections.discard(self)

    @property
    def is_idle(self) -> bool:
        """Whether there is no whole question that has no whole answer yet."""
        cycle = cast("RequestResponseCycle | None", self.cycle)  # None before the first question
        return cycle is None or cycle.response_complete

    def data_received(self, data: bytes) -> None:
        timer = self.timeout_keep_alive_task
        super().data_received(data)
        nothing_to_do = self.conn.their_state is h11.IDLE or self.conn.our_state is h11.DONE
        if timer is not None and self.timeout_keep_alive_task is None and nothing_to_do:
            self._hang_up_at(timer.when())

    def _hang_up_at(self, moment: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_at(moment, self.timeout_keep_alive_handler)


class _Redacting:
    """Sends answers without secrets. An answer that comes in one piece is looked at as a whole."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message  # it holds the length of the body
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
    """An application on one address: ``async with Listener(app, host, port) as listener``.

    ``app`` may be exchanged at any time: requests that come in later get the new one.
    """

    def __init__(self, app: ASGIApp, host: str, port: int) -> None:
        """Listens at once, so that nobody is refused. Raises :class:`OSError` when the address cannot be had."""
        self.app = app
        self._socket = bind(host, port)
        self.port = int(self._socket.getsockname()[1])
        config = uvicorn.Config(
            self._answer, interface="asgi3", http=_Protocol, ws="none", lifespan="off", log_config=None,
            access_log=False, server_header=False, date_header=False,
            backlog=BACKLOG, timeout_graceful_shutdown=2, timeout_keep_alive=PATIENCE_S,
        )  # fmt: skip
        self._server = _Server(config)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, _Redacting(send))

    async def __aenter__(self) -> Self:
        self._serving = asyncio.create_task(self._server.serve([self._socket]))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.stopping.set()
        await self._serving


class Listeners:
    """The daemon's listeners by what they are for. One stays open as long as its address stays the same."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[Address, Listener]] = {}

    async def listen(self, what: str, address: Address | None, app: ASGIApp) -> None:
        """Let ``app`` answer there from now on; None: nowhere.

        A port that is taken must not keep events from being delivered: it is logged, and tried at the next call.
        """
        if what in self._open and self._open[what][0] == address:
            self._open[what][1].app = app
            return
        await self.close(what)
        if address is None:
            return
        try:
            listener = Listener(app, address.host, address.port)
        except OSError as error:
            reason = f"{error.strerror}; set [{what}] listen to another address"
            log.error("cannot listen", what=what, address=str(address), reason=reason)
            return
        self._open[what] = address, await listener.__aenter__()
        log.info("listening", what=what, url=f"http://{replace(address, port=listener.port)}")

    async def close(self, what: str) -> None:
        """Listen there no more. Requests under way are answered, within two seconds."""
        if what in self._open:
            _, listener = self._open.pop(what)
            await listener.__aexit__()

    async def close_all(self) -> None:
        """Listen nowhere any more; see :meth:`close`."""
        await asyncio.gather(*(self.close(what) for what in list(self._open)))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close_all()
