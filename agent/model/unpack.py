"""Decompressing the body of an answer with a size limit, which the HTTP libraries lack."""

from __future__ import annotations

import zlib

from agent.model.secrets import redact

# Characters of a foreign header that messages show.
_SHOWN = 100


class PackedError(ValueError):
    """The body cannot be decompressed. The message says why; put the name of the page before it."""


def unpacked(body: bytes | bytearray, encoding: str, limit: int) -> bytes | bytearray:
    """The decompressed body. ``Content-Encoding`` may be absent, identity, or gzip once.

    At most ``limit + 1`` bytes are returned, so that the caller can see that it is larger than ``limit``. Raises
    :class:`PackedError` for another encoding, for damage, and for a truncated body.
    """
    if encoding.strip().lower() in ("", "identity"):
        return body
    if encoding.strip().lower() not in ("gzip", "x-gzip"):
        raise PackedError(f"has Content-Encoding {redact(encoding)[:_SHOWN]}, which the agent did not request")
    unpacking = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        content = unpacking.decompress(body, limit + 1)
    except zlib.error as error:
        raise PackedError(f"cannot be decompressed: {error}") from error
    if len(content) <= limit and not unpacking.eof:
        raise PackedError(f"is truncated: the compressed body ends after {len(body)} bytes")
    return content
