"""Clients of a listener that do not behave."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

import httpx
import pytest
from starlette.responses import PlainTextResponse

from agent.config.settings import Address
from agent.daemon import listener
from agent.daemon.listener import Listener
from tests.integration.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

# More than the buffers of a connection hold.
LARGE = "x" * 16_000_000


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A listener with large answers and few connections."""
    monkeypatch.setattr(listener, "MOST_CONNECTIONS", 3)
    started, stop = threading.Event(), threading.Event()
    found: list[str] = []

    async def serve() -> None:
        async with Listener(PlainTextResponse(LARGE), Address("127.0.0.1", 0)) as listening:
            found.append(listening.url)
            started.set()
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert started.wait(120)
    yield found[0]
    stop.set()
    thread.join(120)


def test_clients_that_do_not_read_their_answers_keep_nobody_away(url: str) -> None:
    port = int(url.rpartition(":")[2])
    with ExitStack() as stack:
        for _ in range(3):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=120))
            # The second answer waits until the first one is read.
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2)

        def is_served() -> bool:
            try:
                return len(httpx.get(url, trust_env=False, timeout=120).content) == len(LARGE)
            except httpx.TransportError:
                return False

        wait_until(is_served, "a client that reads gets its answer")


def test_a_request_that_is_not_answered_when_the_listener_closes_may_be_repeated(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def story() -> httpx.Response:
        asked = asyncio.Event()

        async def app(*_: object) -> None:
            asked.set()
            await asyncio.Event().wait()

        async with httpx.AsyncClient(trust_env=False, timeout=120) as client:
            async with Listener(app, Address("127.0.0.1", 0)) as listening:
                answer = asyncio.create_task(client.get(listening.url))
                await asked.wait()
            return await answer

    answer = asyncio.run(story())
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert not [record for record in caplog.records if record.exc_info]
