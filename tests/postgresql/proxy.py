"""A TCP proxy in front of PostgreSQL that knows where a statement ends, and cuts the connection at a chosen one."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from agent.model.sockets import bind

if TYPE_CHECKING:
    from collections.abc import Callable

# With these messages a client ends what it wants to have done, and waits for the answer.
_QUERY, _SYNC, _READY = b"Q", b"S", b"Z"
_ERROR = b"E"


class Proxy:
    """``texts``: what clients have sent. ``cuts(n, text)``: what happens to the n-th (from 1 on); ``done``: what did.

    None: it passes. ``before``: the connection is cut, and the server never has it. ``after``: the server has it, and
    the connection is cut before the client has the answer. Another text is an SQLSTATE: the server never has it, and
    the client gets this error.
    """

    def __init__(self, folder: str, port: int) -> None:
        """To the server that listens on the Unix socket in ``folder``: it needs no password there."""
        self._server = f"{folder}/.s.PGSQL.{port}"
        self._lock = threading.Lock()
        self.texts: list[bytes] = []
        self.done: list[str] = []
        self.cuts: Callable[[int, bytes], str | None] = lambda _n, _text: None

    def __enter__(self) -> Self:
        self._socket = bind("127.0.0.1", 0)
        self.port = int(self._socket.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def url(self, user: str, database: str) -> str:
        """How a client reaches the database through it."""
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}?sslmode=disable&gssencmode=disable"

    def cut(self, nth: int, how: str) -> None:
        """Count from here on, and cut the ``nth`` once."""
        self.texts = []
        self.cuts = lambda n, _text: how if n == nth else None

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._socket.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server:
            with suppress(OSError, EOFError):
                server.connect(self._server)
                self._pass_on(client, server)
            for each in (client, server):
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)  # others still have it open

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        answers = _Answers(server, client)
        reading = client.makefile("rb")
        [length] = struct.unpack("!i", _exactly(reading, 4))
        server.sendall(struct.pack("!i", length) + _exactly(reading, length - 4))
        answers.start()
        unit = b""
        while True:
            kind, message = _message(reading)
            unit += message
            if kind not in (_QUERY, _SYNC):
                if kind in b"pXdcf":  # a password, the end, COPY: nothing to cut
                    server.sendall(unit)
                    unit = b""
                continue
            with self._lock:
                self.texts.append(unit)
                how = self.cuts(len(self.texts), unit)
                if how is not None:
                    self.done.append(how)
            if how == "before":
                return
            if how == "after":
                answers.swallow()
                server.sendall(unit)
                answers.wait()
                return
            if how is not None:
                client.sendall(_refusal(how, within=answers.status in b"TE"))
                if answers.status == b"T":
                    answers.fail(server)
            else:
                server.sendall(unit)
            unit = b""


class _Answers(threading.Thread):
    """Passes the server's messages on, and knows the state of the transaction (``I``, ``T`` or ``E``)."""

    def __init__(self, server: socket.socket, client: socket.socket) -> None:
        super().__init__(daemon=True)
        self._reading = server.makefile("rb")
        self._client = client
        self._swallows = False
        self._ready = threading.Event()
        self.status = b"I"

    def swallow(self) -> None:
        """The client gets nothing more."""
        self._ready.clear()
        self._swallows = True

    def wait(self) -> None:
        """Until the server has done everything."""
        self._ready.wait(60)

    def fail(self, server: socket.socket) -> None:
        """Let the server's transaction fail, as the client thinks it has."""
        self.swallow()
        server.sendall(_QUERY + struct.pack("!i", 7) + b"!!\0")
        self.wait()
        self._swallows = False

    def run(self) -> None:
        with suppress(OSError, EOFError):
            while True:
                kind, message = _message(self._reading)
                if not self._swallows:
                    self._client.sendall(message)
                if kind == _READY:
                    self.status = message[-1:]
                    self._ready.set()
        with suppress(OSError):
            self._client.shutdown(socket.SHUT_RDWR)
        self._ready.set()


def _message(reading: object) -> tuple[bytes, bytes]:
    kind = _exactly(reading, 1)
    size = _exactly(reading, 4)
    return kind, kind + size + _exactly(reading, struct.unpack("!i", size)[0] - 4)


def _exactly(reading: object, count: int) -> bytes:
    found: bytes = reading.read(count)  # type: ignore[attr-defined]
    if len(found) < count:
        raise EOFError
    return found


def _refusal(code: str, *, within: bool) -> bytes:
    """The server's answer to a statement that fails."""
    fields = b"SERROR\0VERROR\0C" + code.encode() + b"\0Mcould not extend file: No space left on device\0\0"
    error = _ERROR + struct.pack("!i", len(fields) + 4) + fields
    return error + _READY + struct.pack("!i", 5) + (b"E" if within else b"I")
