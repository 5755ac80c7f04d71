"""The least that a listing of all jobs must be decoded into to see what is new."""

from __future__ import annotations

import msgspec


class Item(msgspec.Struct):
    """A job or a folder, or the controller itself."""

    fullName: str = ""  # noqa: N815
    nextBuildNumber: int = 0  # noqa: N815
    jobs: list[Item] | None = None


decode = msgspec.json.Decoder(Item).decode
