"""What the texts of options mean. A text that means nothing ends the verb with a :class:`click.UsageError`."""

from __future__ import annotations

import click

from agent.config.rules import Pattern, RuleError
from agent.model.times import describe_duration, parse_duration, parse_since

# Jenkins' clock may be ahead of this one: what just ended there is seen all the same.
FUTURE_MS = 24 * 3_600_000
# The year 9000: a day or a year more is still a date.
_LATEST = 221_845_392_000_000


def moment(option: str, text: str, now_ms: int) -> int:
    """A moment of the past in UTC milliseconds: ``24h``, ``2026-01-31``, ``2026-01-31T18:00:00Z``."""
    try:
        ms = parse_since(text, now_ms)
    except ValueError as error:
        raise click.UsageError(f"{option}: {error}") from None
    if ms > _LATEST:
        raise click.UsageError(f"{option}: {text} is too far in the future")
    return max(ms, 0)  # nothing was built before 1970


def duration(option: str, text: str, *, most_ms: int) -> int:
    """A duration in milliseconds: ``6s``, ``2m``."""
    try:
        ms = parse_duration(text)
    except ValueError as error:
        raise click.UsageError(f"{option}: {error}") from None
    if ms > most_ms:
        raise click.UsageError(f"{option}: {text} is longer than {describe_duration(most_ms)}")
    return ms


def job_pattern(option: str, text: str | None) -> Pattern | None:
    """Which jobs are meant; None: all."""
    try:
        return None if text is None else Pattern.parse(text)
    except RuleError as error:
        raise click.UsageError(f"{option}: {error}") from None
