"""Servers that answer to do harm, and visitors that come to stay: for some seconds, at random moments."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import json
import re
import socket
import threading
import time
import urllib.request
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from starlette.responses import Response, StreamingResponse

from tests.soak.actors import Actor

if TYPE_CHECKING:
    import random
    from collections import Counter
    from collections.abc import AsyncIterator, Callable, Sequence

    from starlette.types import ASGIApp, Receive, Scope, Send

    from tests.integration.support import Agent

# As Agent.configured writes it.
TOKEN = "sandbox-token"
MOST_BYTES = 2_000_000_000  # nobody reads so much; the servers of a soak end all the same
_PIECE = b" " * 65_536
_BOMB = gzip.compress(b"[" + b" " * 300_000_000, 9)
_JSON = {"Content-Type": "application/json"}
_LISTENING = re.compile(r"listening.*monitoring.*?url=http://(127\.0\.0\.1):(\d+)")


async def _without_end(first: bytes) -> AsyncIterator[bytes]:
    yield first
    for _ in range(MOST_BYTES // len(_PIECE)):
        yield _PIECE
        await asyncio.sleep(0)


async def _dripping() -> AsyncIterator[bytes]:
    for _ in range(600):
        yield b" "
        await asyncio.sleep(0.1)


# What a hostile server sends, each time anew.
ANSWERS: dict[str, Callable[[], Response]] = {
    "an endless body": lambda: StreamingResponse(_without_end(b'{"a": "'), headers=_JSON),
    "a redirect with an endless body": lambda: StreamingResponse(
        _without_end(b"x"), 302, {"Location": "https://login.example.test/"}
    ),
    "an error with an endless body": lambda: StreamingResponse(_without_end(b"<"), 500),
    "a gzip bomb": lambda: Response(_BOMB, headers=_JSON | {"Content-Encoding": "gzip"}),
    "a gzip bomb behind a redirect": lambda: Response(
        _BOMB, 302, {"Location": "https://login.example.test/", "Content-Encoding": "gzip"}
    ),
    "one byte at a time": lambda: StreamingResponse(_dripping(), headers=_JSON),
    "the token in every place": lambda: Response(json.dumps({"error": TOKEN}), 503, {"X-Reflected": TOKEN}),
    "a large head": lambda: Response("{}", 503, {f"X-{number}": "a" * 4_000 for number in range(15)}),
    "depth": lambda: Response("[" * 200_000, headers=_JSON),
    "a cookie for each": lambda: Response("{}", 503, {"Set-Cookie": f"n{time.monotonic_ns()}={'v' * 3_000}; Path=/"}),
}


class Front:
    """Stands before an application, and answers in its place while ``answer`` is set, where ``part`` is in the path."""

    def __init__(self, behind: ASGIApp) -> None:
        self._behind = behind
        self.answer: Callable[[], Response] | None = None
        self.part = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self.answer
        mine = answer is not None and scope["type"] == "http" and self.part in scope["path"]
        served = answer() if answer is not None and mine else self._behind
        with suppress(asyncio.CancelledError):
            await served(scope, receive, send)


class Hostile(Actor):
    """A server, or what stands in its place, that answers some of the questions, or all of them, to do harm."""

    every_s = (5.0, 20.0)

    def __init__(self, name: str, front: Front, rng: random.Random, parts: Sequence[str] = ("",)) -> None:
        super().__init__(rng)
        self._name = name
        self._front = front
        self._parts = parts

    def act(self, counts: Counter[str]) -> None:
        name, self._front.part = self.rng.choice(list(ANSWERS)), self.rng.choice(self._parts)
        counts[f"hostile {self._name}: {name}"] += 1
        self._front.answer = ANSWERS[name]
        time.sleep(self.rng.uniform(0.2, 3.0))
        self._front.answer = None

    def calm(self) -> None:
        self._front.answer = None


def _monitoring(agent: Agent) -> tuple[str, int] | None:
    """Where the daemon that runs now listens, by its log."""
    with suppress(OSError):
        found = _LISTENING.findall((agent.folder / "agent.log").read_text()[-200_000:])
        if found:
            return found[-1][0], int(found[-1][1])
    return None


class Crowd(Actor):
    """Hundreds of connections to the monitoring port that say nothing, or half of something, and stay."""

    every_s = (10.0, 30.0)

    def __init__(self, agent: Agent, rng: random.Random) -> None:
        super().__init__(rng)
        self._agent = agent

    def act(self, counts: Counter[str]) -> None:
        address = _monitoring(self._agent)
        if address is None:
            return
        with ExitStack() as stack:
            for number in range(400):
                try:
                    visitor = stack.enter_context(socket.create_connection(address, timeout=0.5))
                    visitor.sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\n" if number % 2 else b"")
                except OSError:
                    break
            counts["crowds at the monitoring port"] += 1
            time.sleep(self.rng.uniform(0.5, 8.0))


class Watcher(threading.Thread):
    """Asks for ``/healthz`` all the time, as a load balancer does, and notes the longest wait for an answer."""

    def __init__(self, agent: Agent) -> None:
        super().__init__(daemon=True)
        self._agent = agent
        self._over = threading.Event()
        self.longest_ms = 0
        self.answers = 0

    def run(self) -> None:
        while not self._over.wait(0.2):
            address = _monitoring(self._agent)
            if address is None:
                continue
            begun = time.monotonic()
            with suppress(OSError, http.client.HTTPException):  # it may be down just now
                with urllib.request.urlopen(f"http://{address[0]}:{address[1]}/healthz", timeout=30) as answer:
                    answer.read()
                self.longest_ms = max(self.longest_ms, round((time.monotonic() - begun) * 1000))
                self.answers += 1

    def end(self) -> None:
        """Stop asking."""
        self._over.set()
        self.join()
