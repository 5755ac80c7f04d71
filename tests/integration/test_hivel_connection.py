"""What a failing connection to Hivel is called: whether nothing was reached, it broke, or it took too long."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from agent.config.credentials import Token
from agent.config.settings import DeliverySettings, HivelSettings
from agent.delivery.hivel import HivelClient
from agent.model.times import Clock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agent.delivery.answers import Answer

    Reply = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def post_to(reply: Reply, *, times: int = 1, timeout_ms: int = 5_000) -> list[Answer]:
    """The answers to POSTs, one after the other, to a server that replies so."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reply(reader, writer)
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
            closed.set()

    async def main() -> list[Answer]:
        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            return await posted(f"http://127.0.0.1:{port}", times, timeout_ms)
        finally:
            server.close()
            await closed.wait()

    closed = asyncio.Event()

    return asyncio.run(main())


async def posted(url: str, times: int, timeout_ms: int) -> list[Answer]:
    settings, delivery = HivelSettings(url, Token("secret")), DeliverySettings(timeout_ms=timeout_ms)
    async with HivelClient(settings, delivery, Clock()) as client:
        return [await client.post(b"{}") for _ in range(times)]


async def _request(reader: asyncio.StreamReader) -> None:
    await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(2)


async def closes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await _request(reader)
    await writer.drain()


async def resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await _request(reader)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def stops_in_the_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await _request(reader)
    writer.write(HEAD)
    await writer.drain()


async def stops_in_the_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await _request(reader)
    writer.write(HEAD + b"Content-Length: 100\r\n\r\n{")
    await writer.drain()


async def speaks_something_else(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await _request(reader)
    writer.write(b"220 mail.example.test ESMTP\r\n")
    await writer.drain()


async def has_a_head_without_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await _request(reader)
    writer.write(HEAD + b"X-Long: " + b"a" * 100_000)
    await writer.drain()


@pytest.mark.parametrize(
    "reply",
    [closes, resets, stops_in_the_head, stops_in_the_body, speaks_something_else, has_a_head_without_end],
)
def test_a_connection_that_breaks_is_told_as_one_and_not_as_a_time_out(reply: Reply) -> None:
    [answer] = post_to(reply)
    assert (answer.status, answer.timed_out, answer.untrusted_certificate) == (None, False, False)
    assert answer.body.startswith("the connection was lost: ")


def test_a_server_that_says_nothing_is_a_time_out() -> None:
    async def waits(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        await writer.drain()

    [answer] = post_to(waits, timeout_ms=200)
    assert (answer.timed_out, answer.body) == (True, "no answer within 0.2 s")


def test_where_nobody_listens_nothing_was_sent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    [answer] = asyncio.run(posted(f"http://127.0.0.1:{port}", 1, 5_000))
    assert (answer.timed_out, answer.body.startswith("cannot connect: ")) == (False, True)


def test_a_name_that_does_not_exist_cannot_be_connected_to() -> None:
    [answer] = asyncio.run(posted("http://hivel.invalid", 1, 5_000))
    assert (answer.timed_out, answer.body.startswith("cannot connect: ")) == (False, True)


def test_cookies_are_not_sent_back() -> None:
    heads: list[bytes] = []

    async def gives_a_cookie(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            await reader.readexactly(2)
            writer.write(HEAD + b"Set-Cookie: session=1; Path=/\r\nContent-Length: 2\r\n\r\n{}")
            await writer.drain()

    assert [answer.status for answer in post_to(gives_a_cookie, times=2)] == [200, 200]
    assert not any(b"cookie" in head.lower() for head in heads)
