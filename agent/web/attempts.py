"""Bounds for guessing passwords, so that neither a password is found nor its owner locked out.

Wrong passwords are counted by client address and altogether. A browser that somebody has logged in with before has a
count of its own: others at the same address, such as builds on this machine or users behind the same proxy, cannot
lock it out.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent.model.times import Clock

# Wrong passwords of one client in a minute, and of all clients together.
MOST_FAILURES = 5
MOST_FAILURES_OF_ALL = 100
_MOST_CLIENTS = 1000
_MINUTE_S = 60.0


class TooManyAttemptsError(Exception):
    """Too many wrong passwords; the message is for users."""


@dataclass(frozen=True)
class Guesser:
    """Whose wrong passwords are counted together. ``known``: a browser that somebody has logged in with before."""

    name: str
    known: bool = False


class Attempts:
    """Wrong passwords of the last minute. Check, compare and note one after the other: see :class:`Access`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._of: OrderedDict[Guesser, deque[float]] = OrderedDict()
        self._all: deque[float] = deque(maxlen=MOST_FAILURES_OF_ALL)

    def refuse_too_many(self, guesser: Guesser) -> None:
        """Raises :class:`TooManyAttemptsError` if this client has to wait."""
        since = self._clock.monotonic() - _MINUTE_S
        of_client = [at for at in self._of.get(guesser, ()) if at > since]
        of_all = [] if guesser.known else [at for at in self._all if at > since]
        if len(of_client) >= MOST_FAILURES or len(of_all) >= MOST_FAILURES_OF_ALL:
            raise TooManyAttemptsError("too many failed logins; try again in a minute")

    def note_failure(self, guesser: Guesser) -> None:
        """This client has sent a wrong password."""
        now = self._clock.monotonic()
        if not guesser.known:
            self._all.append(now)
        self._of.setdefault(guesser, deque(maxlen=MOST_FAILURES)).append(now)
        self._of.move_to_end(guesser)
        while len(self._of) > _MOST_CLIENTS:
            self._of.popitem(last=False)
