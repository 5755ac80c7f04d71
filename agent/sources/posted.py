"""Requests that other systems post: their bodies, within limits, and answers as JSON.

Errors are ``{"error": "…"}``. The intake and the listener for webhooks share this.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
from starlette.requests import ClientDisconnect
from starlette.responses import Response

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.requests import Request

# Time limit for the body of a request. Bodies are small and arrive at once.
PATIENCE_S = 10.0
RETRY_AFTER_S = "5"


class Refused(Exception):  # noqa: N818 - an answer to the client, not an error of the agent
    """A request gets this status with these words."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


async def read_body(
    request: Request,
    most_bytes: int,
    arrived: Callable[[int], None] | None = None,
    deadline: asyncio.Timeout | None = None,
) -> bytes:
    """The body of a request. Raises :class:`Refused`: 413, 408, or 400 if the client is gone.

    ``arrived`` is called with the size of each piece, and can refuse it. ``deadline``: in place of ``PATIENCE_S``.
    """
    body = bytearray()
    try:
        async with deadline or asyncio.timeout(PATIENCE_S):
            async for chunk in request.stream():
                body += chunk
                if arrived is not None:
                    arrived(len(chunk))
                if len(body) > most_bytes:
                    raise too_large(most_bytes)
    except TimeoutError:
        raise Refused(408, "the body did not arrive in time") from None
    except ClientDisconnect:
        raise Refused(400, "the body is incomplete") from None
    return bytes(body)


def too_large(most_bytes: int) -> Refused:
    """The refusal of a body over the limit."""
    return Refused(413, f"the body has more than {most_bytes} bytes")


def not_now(what: str, reason: str) -> Response:
    """503: ``what`` cannot be stored."""
    return error_answer(503, f"the {what} cannot be stored now: {reason}", {"Retry-After": RETRY_AFTER_S})


def error_answer(status: int, words: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error with words."""
    return json_answer(status, {"error": words}, headers)


def json_answer(status: int, value: object, headers: Mapping[str, str] | None = None) -> Response:
    """A value as JSON."""
    return Response(msgspec.json.encode(value) + b"\n", status, headers, media_type="application/json")
