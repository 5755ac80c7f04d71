"""A Hivel that costs next to nothing: HTTP/1.1 on loopback; every event is answered as Hivel does when it stored it.

Run as ``python -m tests.benchmarks.hivel MILLISECONDS``: it prints its port, answers each request after so many
milliseconds without holding up others, and ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: %d\r\n\r\n"
BODY = b'{"message":"Deployment event stored successfully","deployment_id":"%b","success":true}'


class Connection(asyncio.Protocol):
    """One kept-alive connection; requests come one after another, whole or in pieces."""

    def __init__(self, latency_s: float) -> None:
        self._latency_s = latency_s
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found or len(body) < int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0]):
            return
        self._received = b""
        answer = BODY % body.partition(b'"deployment_id":"')[2].partition(b'"')[0]
        if self._latency_s:
            asyncio.get_running_loop().call_later(self._latency_s, self._send, answer)
        else:
            self._send(answer)

    def _send(self, answer: bytes) -> None:
        self._transport.write(HEAD % len(answer) + answer)


async def main(latency_ms: str) -> None:
    """Serve until the standard input ends."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(int(latency_ms) / 1000), "127.0.0.1", 0, backlog=512)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    gc.freeze()
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(sys.argv[1]))
