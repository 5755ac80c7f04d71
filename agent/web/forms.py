"""Posted forms."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect

from agent.web.page import RefusedError

if TYPE_CHECKING:
    from starlette.requests import Request

MOST_BYTES = 64 * 1024
MOST_FIELDS = 5000
# Time limit for the whole form: a connection that waits for the rest of it is not available for others.
PATIENCE_S = 10.0


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a posted form; of a repeated one the last. Raises :class:`RefusedError`."""
    return dict(await read_fields(request))


async def read_fields(request: Request) -> list[tuple[str, str]]:
    """The fields of a posted form, in order. Raises :class:`RefusedError` if it is too large or not a form."""
    try:
        return parse_qsl((await _body(request)).decode("ascii"), keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError:
        raise RefusedError(400, "the form cannot be read") from None


async def _body(request: Request) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(PATIENCE_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MOST_BYTES:
                    raise RefusedError(413, f"the form has more than {MOST_BYTES} bytes")
    except TimeoutError:
        raise RefusedError(408, f"the form did not arrive within {PATIENCE_S:g} s") from None
    except ClientDisconnect:
        raise RefusedError(400, "the form is incomplete") from None  # the client is gone
    return bytes(body)
