"""A server that answers byte by byte as a test says: slowly, never, without end, or cut off."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from agent.daemon.listener import bind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path
    from typing import BinaryIO

JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def whole(body: bytes, *, head: bytes = JSON) -> bytes:
    """An answer after which the connection stays open."""
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


class Scripted:
    """Every request is answered by ``answer(path, connection)``; False closes the connection.

    ``paths`` are those that were asked for, ``accepted`` counts the connections, ``asked`` is set by each request.
    """

    def __init__(self, answer: Callable[[str, Connection], bool | None], certificate: Path | None = None) -> None:
        self._answer = answer
        self._context = None
        if certificate is not None:
            self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self._context.load_cert_chain(certificate)
        self.paths: list[str] = []
        self.accepted = 0
        self.asked = threading.Event()
        self.over = threading.Event()
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._socket = bind("127.0.0.1", 0)
        scheme = "http" if self._context is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self._socket.getsockname()[1]}/"
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for sock in (self._socket, *self._open):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._socket.close()

    def _start(self, run: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=run, args=arguments, name="scripted", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._socket.accept()
                self.accepted += 1
                self._open.append(client)
                self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError), client:
            if self._context is not None:
                client = self._context.wrap_socket(client, server_side=True)
                self._open.append(client)
            with client, client.makefile("rb") as incoming:
                while (path := _read_request(incoming)) is not None:
                    self.paths.append(path)
                    self.asked.set()
                    if self._answer(path, Connection(client, self.over)) is False:
                        return


class Connection:
    """What an answer is written to."""

    def __init__(self, sock: socket.socket, over: threading.Event) -> None:
        self._sock = sock
        self._over = over

    def send(self, data: bytes) -> None:
        """All at once."""
        self._sock.sendall(data)

    def close(self) -> None:
        """The end of an answer without a length."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def drip(self, data: Iterable[int], pause_s: float = 0.02) -> None:
        """One byte after the other, until the client has had enough; raises :class:`OSError` then."""
        for byte in data:
            self._sock.sendall(bytes([byte]))
            if self._over.wait(pause_s):
                return

    def say_nothing(self) -> None:
        """For the rest of the test."""
        self._over.wait()


def _read_request(incoming: BinaryIO) -> str | None:
    path, length = None, 0
    for line in incoming:
        if line == b"\r\n":
            incoming.read(length)
            return path
        path = path or line.split()[1].decode()
        if line.lower().startswith(b"content-length:"):
            length = int(line[15:])
    return None
