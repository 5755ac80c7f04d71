"""Running an ASGI application on this machine: in a thread for demo and tests, in the foreground for the CLI."""

from __future__ import annotations

import socket
import struct
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from agent.model.sockets import bind

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from starlette.types import ASGIApp, Receive, Scope, Send

TRANSPORT = "hivel_agent.transport"


class _Protocol(H11Protocol):
    """HTTP/1.1 that gives the application access to its connection, so that it can break the connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.app = partial(self._with_transport, self.app)

    async def _with_transport(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("extensions", {})[TRANSPORT] = self.transport
        await app(scope, receive, send)


def reset_connection(scope: Scope) -> None:
    """Close the request's connection with a TCP reset, as a crashing server or a firewall does."""
    transport: asyncio.Transport = scope["extensions"][TRANSPORT]
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def cut_connection(scope: Scope) -> None:
    """Close the request's connection after what was sent so far."""
    transport: asyncio.Transport = scope["extensions"][TRANSPORT]
    transport.close()


def _uvicorn(app: ASGIApp) -> uvicorn.Server:
    config = uvicorn.Config(
        app, interface="asgi3", http=_Protocol, ws="none", lifespan="off", log_config=None, access_log=False,
        timeout_graceful_shutdown=1, server_header=False, date_header=False,
    )  # fmt: skip
    return uvicorn.Server(config)


class LocalServer:
    """An application served from a thread of this process, on a loopback port.

    ``with LocalServer(app) as server: httpx.get(server.url)``. Port 0: any free port. After :meth:`stop`,
    :meth:`start` listens on the same port again, to simulate an outage.
    """

    def __init__(self, app: ASGIApp, host: str = "127.0.0.1", port: int = 0) -> None:
        self._app = app
        self.host = host
        self.port = port
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """The address without a trailing slash. It is valid after :meth:`start`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    def start(self) -> Self:
        """Listen. Raises :class:`OSError` if the port is in use."""
        sock = bind(self.host, self.port)
        self.port = sock.getsockname()[1]
        self._server = _uvicorn(self._app)
        # The socket already listens: connections before the thread runs wait in the backlog.
        self._thread = threading.Thread(
            target=self._server.run, args=([sock],), name=f"local server {self.port}", daemon=True
        )
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop listening, and close open connections. Later connections are refused."""
        if self._server is None or self._thread is None:
            return
        self._server.should_exit = True
        self._server.force_exit = False
        self._thread.join()
        self._server = self._thread = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def serve(app: ASGIApp, host: str, port: int, *, announce: Callable[[str], None]) -> None:
    """Serve in the foreground until SIGINT or SIGTERM; ``announce(url)`` is called once it listens.

    Raises :class:`OSError` if the address cannot be used.
    """
    sock = bind(host, port)
    shown = f"[{host}]" if ":" in host else host
    announce(f"http://{shown}:{sock.getsockname()[1]}")
    _uvicorn(app).run([sock])
