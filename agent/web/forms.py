"""Posted forms."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from agent.web.page import RefusedError

if TYPE_CHECKING:
    from starlette.requests import Request

MOST_BYTES = 64 * 1024
MOST_FIELDS = 5000


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a posted form; of a repeated one the last. Raises :class:`RefusedError`."""
    return dict(await read_fields(request))


async def read_fields(request: Request) -> list[tuple[str, str]]:
    """The fields of a posted form, in order. Raises :class:`RefusedError` if it is too large or not a form."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            raise RefusedError(413, f"the form has more than {MOST_BYTES} bytes")
    try:
        return parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError:
        raise RefusedError(400, "the form cannot be read") from None
