"""What stands between the agent and the world: a TLS server with an authority of its own, and a proxy."""

from __future__ import annotations

import re
import socket
import ssl
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

import trustme
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from agent.model.sockets import bind

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.types import ASGIApp


class Authority:
    """A certificate authority that nobody knows; its files are in ``folder``."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._ca = trustme.CA()
        self.file = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(str(self.file))

    def issue(self, name: str) -> Path:
        """A file with a private key and the certificate of that name."""
        file = self._folder / f"{name}.pem"
        self._ca.issue_cert(name).private_key_and_cert_chain_pem.write_to_path(str(file))
        return file

    def issue_apart(self, name: str) -> tuple[Path, Path]:
        """The certificate of that name and its key, in two files."""
        issued = self._ca.issue_cert(name)
        certificate, key = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        issued.cert_chain_pems[0].write_to_path(str(certificate))
        issued.private_key_pem.write_to_path(str(key))
        return certificate, key


class Server:
    """An application over HTTP or HTTPS on a loopback port, with a count of its connections."""

    def __init__(self, app: ASGIApp, certificate: Path | None = None, *, clients_of: Path | None = None) -> None:
        """``clients_of``: only clients with a certificate of that authority."""
        self.accepted = self.open = self.most_open = 0
        server = self

        class Counting(H11Protocol):
            def connection_made(self, transport: Any) -> None:
                server.accepted += 1
                server.open += 1
                server.most_open = max(server.most_open, server.open)
                super().connection_made(transport)

            def connection_lost(self, exc: Exception | None) -> None:
                server.open -= 1
                super().connection_lost(exc)

        self._config = uvicorn.Config(
            app, http=Counting, ws="none", lifespan="off", log_config=None, access_log=False, timeout_keep_alive=60,
            timeout_graceful_shutdown=1, ssl_certfile=certificate and str(certificate),
            ssl_ca_certs=clients_of and str(clients_of),
            ssl_cert_reqs=ssl.CERT_REQUIRED if clients_of else ssl.CERT_NONE,
        )  # fmt: skip
        self._secure = certificate is not None

    def __enter__(self) -> Self:
        sock = bind("127.0.0.1", 0)
        self.port = int(sock.getsockname()[1])
        self._server = uvicorn.Server(self._config)
        self._thread = threading.Thread(target=self._server.run, args=([sock],), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()

    @property
    def url(self) -> str:
        return f"{'https' if self._secure else 'http'}://127.0.0.1:{self.port}"


class Proxy:
    """A proxy that alone knows where some hosts are: ``hosts`` maps host:port to a local port.

    ``requests`` is what it was asked for: ``CONNECT host:port`` or ``POST http://host/path``; ``credentials`` are those
    that came with it, as they were sent.
    """

    def __init__(
        self, hosts: dict[str, int], *, refuse_with: str | None = None, certificate: Path | None = None
    ) -> None:
        """``certificate``: it is spoken to over TLS."""
        self._hosts = hosts
        self._context = None if certificate is None else ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        if self._context is not None and certificate is not None:
            self._context.load_cert_chain(certificate)
        self._refusal = refuse_with
        self.requests: list[str] = []
        self.credentials: list[str | None] = []

    def __enter__(self) -> Self:
        self._socket = bind("127.0.0.1", 0)
        self.url = f"{'https' if self._context else 'http'}://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._socket.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, accepted: socket.socket) -> None:
        with suppress(OSError), self._spoken_to(accepted) as client, client.makefile("rb") as incoming:
            method, target, head = _read_head(incoming)
            self.requests.append(f"{method} {target}")
            found = re.search(rb"(?mi)^proxy-authorization: (.*?)\r?$", head)
            self.credentials.append(found[1].decode() if found else None)
            if self._refusal is not None:
                client.sendall(f"HTTP/1.1 {self._refusal}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
                return
            if method == "CONNECT":
                with socket.create_connection(("127.0.0.1", self._hosts[target])) as server:
                    client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                    _pump_both_ways(client, server)
            else:
                self._forward(client, incoming, target, head)

    def _spoken_to(self, client: socket.socket) -> socket.socket:
        return client if self._context is None else self._context.wrap_socket(client, server_side=True)

    def _forward(self, client: socket.socket, incoming: Any, target: str, head: bytes) -> None:
        """One plain request; the connection is closed behind it."""
        host, _, path = target.removeprefix("http://").partition("/")
        with socket.create_connection(("127.0.0.1", self._hosts[host])) as server:
            first, _, rest = head.partition(b"\r\n")
            lines = [line for line in rest.split(b"\r\n") if not line.lower().startswith((b"connection:", b"proxy-"))]
            method = first.split()[0]
            server.sendall(method + b" /" + path.encode() + b" HTTP/1.1\r\nConnection: close\r\n" + b"\r\n".join(lines))
            length = next((int(line[15:]) for line in lines if line.lower().startswith(b"content-length:")), 0)
            server.sendall(incoming.read(length))
            _pump(server, client)


def _read_head(incoming: Any) -> tuple[str, str, bytes]:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = incoming.readline()
        if not line:
            raise ConnectionResetError
        head += line
    method, target, _ = head.split(b"\r\n", 1)[0].decode().split()
    return method, target, head


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def _pump_both_ways(one: socket.socket, other: socket.socket) -> None:
    back = threading.Thread(target=_pump, args=(other, one), daemon=True)
    back.start()
    _pump(one, other)
    back.join()
