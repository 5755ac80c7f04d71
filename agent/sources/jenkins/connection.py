"""Connections with a deadline and size limit for the whole answer, which another thread can abort.

``requests`` limits each read but not the whole answer, so a server that sends a byte now and then never times out. And
http.client reads the status line, the headers and the answers of proxies before ``requests`` sees them. So the limit is
applied below http.client, at each read from the socket, with or without TLS: the socket's time-out is set to the time
that is left. This needs no timers and no extra threads. Only :meth:`Exchange.abort` is called from another thread: it
shuts the socket down, which wakes a thread that connects, does the TLS handshake, or reads.
"""

from __future__ import annotations

import http.client
import io
import socket
import threading
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import requests
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import NewConnectionError

if TYPE_CHECKING:
    from collections.abc import Callable

# Large reads, because the deadline is checked at each read.
_BUFFER = 64 * 1024
# Set by the caller; one thread makes a request from beginning to end.
exchange_under_way: ContextVar[Exchange] = ContextVar("exchange_under_way")


class Exchange:
    """One request in progress: its deadline, its limits, and its socket, so that it can be aborted.

    ``pause_s`` limits connecting, the TLS handshake, the wait for the first byte and each pause between bytes.
    ``whole_s`` limits all of it together. ``limit``: received bytes, headers included. ``progress`` is called with each
    number of received bytes.
    """

    def __init__(self, pause_s: float, whole_s: float, limit: int, progress: Callable[[int], None]) -> None:
        self._pause_s = pause_s
        self._too_late = f"the answer was not complete after {whole_s:g} s"
        self._deadline = time.monotonic() + whole_s
        self._limit = self._room = limit
        self._progress = progress
        self._lock = threading.Lock()
        self._handle: socket.socket | None = None
        self._aborted = False
        self.connected = False
        self.failure: str | None = None  # the reason, if the exception has no message

    @property
    def received(self) -> int:
        """Received bytes, headers included."""
        return self._limit - self._room

    def hurry(self, seconds: float) -> None:
        """Limit the remaining time to ``seconds``."""
        self._deadline = min(self._deadline, time.monotonic() + seconds)

    def abort(self) -> None:
        """Abort the request. The waiting thread gets an :class:`OSError` or the end of the answer."""
        with self._lock:
            self._aborted = True
            if self._handle is not None:
                _shut_down(self._handle)

    def finish(self) -> None:
        """The request is complete; the connection may be used for another one."""
        with self._lock:
            if self._handle is not None:
                self._handle.close()
                self._handle = None

    # ---- called by the connection

    def connect(self, host: str, port: int, options: Any) -> socket.socket:
        """Like ``socket.create_connection``, but with one deadline for all addresses; :meth:`abort` ends it.

        Only name resolution has no limit but the resolver's own (``/etc/resolv.conf``).
        """
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        until = time.monotonic() + self._left_s()
        refusal = OSError(f"{host} has no address")
        for place, (family, kind, protocol, _, address) in enumerate(addresses):
            sock = socket.socket(family, kind, protocol)
            try:
                for option in options or ():
                    sock.setsockopt(*option)
                self.watch(sock)
                sock.settimeout(max(until - time.monotonic(), 0.001) / (len(addresses) - place))
                sock.connect(address)
            except OSError as error:
                sock.close()
                refusal = error
            else:
                sock.settimeout(self._left_s())  # for the whole TLS handshake
                self._progress(1)
                return sock
        raise refusal

    def watch(self, sock: socket.socket) -> None:
        """Use this socket for the request.

        Keeps a duplicate handle, which stays valid while TLS replaces the socket and cannot be closed during
        :meth:`abort`.
        """
        with self._lock:
            if self._aborted:
                raise ConnectionAbortedError("the request was aborted")
            if self._handle is not None:
                self._handle.close()
            self._handle = socket.fromfd(sock.fileno(), socket.AF_INET, socket.SOCK_STREAM)

    def receive(self, sock: socket.socket, read: Callable[[Any], int | None], buffer: Any) -> int | None:
        """One read. Raises :class:`OSError` when the time or the size limit is used up."""
        wait_s = self._left_s()
        sock.settimeout(wait_s)
        try:
            size = read(buffer)
        except TimeoutError:
            self.failure = f"no data received for {self._pause_s:g} s" if wait_s == self._pause_s else self._too_late
            raise
        self._room -= size or 0
        if self._room < 0:
            self.failure = f"more than {self._limit} bytes received"
            raise OSError(self.failure)
        self._progress(size or 0)
        return size

    def _left_s(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            self.failure = self._too_late
            raise TimeoutError(self.failure)
        return min(left, self._pause_s)


def _shut_down(handle: socket.socket) -> None:
    try:
        handle.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # either not connected yet (the shutdown still wakes it) or already closed


class _Incoming(io.RawIOBase):
    """Data received over a socket, within the limits of the current exchange."""

    def __init__(self, sock: socket.socket, raw: io.RawIOBase) -> None:
        self._sock = sock
        self._raw = raw
        self._exchange = exchange_under_way.get()
        self.in_headers = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        size = self._exchange.receive(self._sock, self._raw.readinto, buffer)
        if size == 0 and self.in_headers:  # http.client would mistake it for the end of the headers
            raise ConnectionResetError("the connection was closed before an answer arrived")
        return size

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self._incoming = _Incoming(sock, self.fp.detach())
        self.fp = io.BufferedReader(self._incoming, _BUFFER)

    def begin(self) -> None:
        self._incoming.in_headers = True
        super().begin()
        self._incoming.in_headers = False


class _Connection(HTTPConnection):
    response_class = _Response

    def _new_conn(self) -> socket.socket:
        try:
            return exchange_under_way.get().connect(self._dns_host.strip("[]"), self.port, self.socket_options)
        except OSError as error:
            raise NewConnectionError(self, str(error)) from error

    def connect(self) -> None:
        super().connect()
        exchange_under_way.get().connected = True

    def request(self, *args: Any, **kwargs: Any) -> None:
        exchange = exchange_under_way.get()
        if self.sock is not None and not exchange.connected:  # the socket has served another request before
            exchange.watch(self.sock)
            exchange.connected = True
        super().request(*args, **kwargs)


class _SecureConnection(_Connection, HTTPSConnection):
    """The same with TLS."""


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


_POOLS = {"http": _Pool, "https": _SecurePool}


class Adapter(requests.adapters.HTTPAdapter):
    """Makes ``requests`` use these connections, directly and through HTTP proxies.

    ``proxy_authorization``: the Proxy-Authorization header.
    """

    def __init__(self, *, connections: int, proxy_authorization: str | None = None) -> None:
        self._proxy_authorization = proxy_authorization
        super().__init__(pool_maxsize=connections)

    def proxy_headers(self, _: str) -> dict[str, str]:
        """See ``requests``."""
        return {"Proxy-Authorization": self._proxy_authorization} if self._proxy_authorization else {}

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """See ``requests``."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        """See ``requests``."""
        manager = super().proxy_manager_for(proxy, **kwargs)
        if not proxy.lower().startswith("socks"):  # SOCKS proxies have their own connection classes
            manager.pool_classes_by_scheme = _POOLS
        return manager

    def close(self) -> None:
        """Close idle connections; urllib3 leaves that to the garbage collector."""
        for manager in (self.poolmanager, *self.proxy_manager.values()):
            for pool in [manager.pools.get(key) for key in manager.pools.keys()]:  # noqa: SIM118 - it is not a dict
                if pool is not None:
                    pool.close()
        super().close()
