"""Unpacking the body of an answer within bounds, which the HTTP libraries do without any."""

from __future__ import annotations

import zlib

from agent.model.secrets import redact

# What others wrote into a header, in our messages.
_SHOWN = 100


class PackedError(ValueError):
    """The body cannot be unpacked; the message says why and fits behind the name of the page."""


def unpacked(body: bytes | bytearray, encoding: str, limit: int) -> bytes | bytearray:
    """The body as it was before it was packed as ``Content-Encoding`` says: not, or once with gzip.

    Of what is larger than ``limit`` bytes there are ``limit + 1``. Raises :class:`PackedError` for another encoding,
    for damage, and for a body that is cut off.
    """
    if encoding.strip().lower() in ("", "identity"):
        return body
    if encoding.strip().lower() not in ("gzip", "x-gzip"):
        raise PackedError(f"is packed as {redact(encoding)[:_SHOWN]}, which was not asked for")
    unpacking = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        content = unpacking.decompress(body, limit + 1)
    except zlib.error as error:
        raise PackedError(f"is damaged and cannot be unpacked: {error}") from error
    if len(content) <= limit and not unpacking.eof:
        raise PackedError(f"is cut off ({len(body)} bytes)")
    return content
