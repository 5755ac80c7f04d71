"""The memory for deliveries in work.

Anybody can announce a body and send it slowly. So when there is no more room, the oldest body that has not arrived yet
is given up: a platform sends its bodies at once.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

from agent.sources.posted import PATIENCE_S, Refused, read_body

if TYPE_CHECKING:
    from starlette.requests import Request

# Bytes of all deliveries in work.
MOST_BYTES = 32 * 1024 * 1024
# Bytes of memory that a decoded JSON value takes, roughly.
_BYTES_OF_A_VALUE = 64
# Values of one body. An Application of Argo CD with a megabyte has 30,000.
MOST_VALUES = 100_000


class Room:
    """What is there for all deliveries together."""

    def __init__(self) -> None:
        self.bytes = 0
        self._arriving: dict[Place, None] = {}  # the oldest first

    def place(self) -> Place:
        """Room for one delivery: ``with room.place() as place``."""
        return Place(self)

    def take(self, place: Place, size: int) -> None:
        """Raises :class:`Refused` if there is no room."""
        place.size += size
        self.bytes += size
        while self.bytes > MOST_BYTES:
            oldest = next((each for each in self._arriving if each is not place), None)
            if oldest is None:
                raise Refused(429, "too many deliveries at a time")
            oldest.give_up()

    def arrives(self, place: Place) -> None:
        self._arriving[place] = None

    def arrived(self, place: Place) -> None:
        self._arriving.pop(place, None)

    def leave(self, place: Place) -> None:
        self.bytes -= place.size
        place.size = 0


class Place:
    """One delivery. ``size``: the bytes that count for it."""

    def __init__(self, room: Room) -> None:
        self.size = 0
        self._room = room
        self._deadline: asyncio.Timeout | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._room.leave(self)

    async def read(self, request: Request, most_bytes: int) -> bytes:
        """The body. Raises :class:`Refused`."""
        self._deadline = asyncio.timeout(PATIENCE_S)
        self._room.arrives(self)
        try:
            return await read_body(request, most_bytes, self.take, self._deadline)
        finally:
            self._room.arrived(self)

    def take(self, size: int) -> None:
        """Count more bytes. Raises :class:`Refused` if there is no room."""
        self._room.take(self, size)

    def take_values(self, body: bytes) -> None:
        """Count the memory that the JSON of a body takes: a value of three bytes can take a hundred.

        Raises :class:`Refused` if there is no room, and :class:`ValueError` if the body has too many values.
        """
        values = body.count(b",") + body.count(b"[") + body.count(b"{")
        if values > MOST_VALUES:
            raise ValueError(f"the body has more than {MOST_VALUES:,} JSON values")
        self.take(values * _BYTES_OF_A_VALUE)

    def give_up(self) -> None:
        """End :meth:`read` with 408."""
        self._room.arrived(self)
        self._room.leave(self)
        if self._deadline is not None:
            self._deadline.reschedule(asyncio.get_running_loop().time())
