"""Times as platforms write them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from agent.model import times

if TYPE_CHECKING:
    from agent.model.part import Part

# GitLab: "2021-04-28 21:50:00 +0200", "2016-08-12 15:23:28 UTC"; everybody else, and GitLab today: RFC 3339.
_OFFSET = re.compile(r"\s+(?=[+-]\d\d:?\d\d$)")


def moment(body: Part, path: str) -> int | None:
    """UTC milliseconds of the time at a path; None if it is missing. Raises :class:`ValueError` with the path."""
    text = body.text(path).strip()
    if not text:
        return None
    plain = _OFFSET.sub("", text.removesuffix(" UTC") + ("Z" if text.endswith(" UTC") else ""))
    try:
        at = times.parse_moment(plain)
        times.rfc3339(at)  # events allow only the years 1 to 9999
    except (ValueError, OverflowError):
        raise ValueError(f"{body.at(path).where}: {text!r:.60} is not a time") from None
    return at


def required_moment(body: Part, path: str) -> int:
    """The same for a time that has to be there."""
    at = moment(body, path)
    if at is None:
        raise ValueError(f"{body.at(path).where} is missing")
    return at


def written(at: int | None) -> str:
    """A time for a report; "" for None."""
    return "" if at is None else times.rfc3339(at)
