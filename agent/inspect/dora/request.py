"""The span of the figures, as users write it."""

from __future__ import annotations

from agent.inspect.dora.weeks import Span
from agent.model.spans import parse_span

# Each environment and repository has a line for each week, also for weeks without deployments.
MOST_WEEKS = 530


def span_of(since: str, until: str, now_ms: int, *, names: tuple[str, str] = ("since", "until")) -> Span:
    """The span. It ends now at the latest: future weeks would look like weeks without deployments.

    ``names``: the names of the two ends in messages. Raises :class:`ValueError` with a message for users.
    """
    begin, end = parse_span(since, until, now_ms, names=names)
    span = Span(begin or 0, now_ms if end is None else min(end, now_ms))
    if span.since >= span.until:
        raise ValueError(f"{names[0]}: {since} is in the future")
    if len(span.weeks) > MOST_WEEKS:
        raise ValueError(
            f"{names[0]} {since} is {len(span.weeks)} weeks before {names[1]} {until}; "
            f"at most {MOST_WEEKS} weeks are shown"
        )
    return span
