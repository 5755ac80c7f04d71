"""Spans of time as people write them: on the command line and in the addresses of pages."""

from __future__ import annotations

from agent.model.times import parse_since, rfc3339

# Jenkins' clock may be ahead of this one: what just ended there is seen all the same.
FUTURE_MS = 24 * 3_600_000
# The year 9000: a day or a year more is still a date.
_LATEST = 221_845_392_000_000


def parse_span(
    since: str | None, until: str | None, now_ms: int, *, names: tuple[str, str] = ("since", "until")
) -> tuple[int | None, int | None]:
    """The two ends in UTC milliseconds; None where one is missing.

    ``since`` must be before ``until``, or before tomorrow if there is no ``until``. ``names``: how a message calls
    them. Raises :class:`ValueError` with a message for users.
    """
    begin = None if since is None else parse_end(names[0], since, now_ms)
    end = None if until is None else parse_end(names[1], until, now_ms)
    if begin is not None and end is not None and begin >= end:
        raise ValueError(
            f"{names[0]} {since} ({_shown(begin)}) must be before {names[1]} {until} ({_shown(end)}): "
            "nothing is in between"
        )
    if begin is not None and end is None and begin >= now_ms + FUTURE_MS:
        raise ValueError(f"{names[0]}: {since} is in the future")
    return begin, end


def parse_end(name: str, text: str, now_ms: int) -> int:
    """A moment in UTC milliseconds: ``now``, ``24h`` (ago), ``2026-01-31``, ``2026-01-31T18:00:00Z``.

    Raises :class:`ValueError` with a message for users that begins with ``name``.
    """
    try:
        ms = parse_since(text, now_ms)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if ms > _LATEST:
        raise ValueError(f"{name}: {text} is too far in the future")
    return max(ms, 0)  # nothing was built before 1970


def _shown(ms: int) -> str:
    return rfc3339(ms)[:19] + "Z"
