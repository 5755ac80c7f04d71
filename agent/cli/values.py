"""Parsing option values. An invalid value raises :class:`click.UsageError`."""

from __future__ import annotations

import click

from agent.config.rules import Pattern, RuleError
from agent.model.spans import FUTURE_MS, parse_end, parse_span
from agent.model.times import describe_duration, parse_duration


def time_span(since: str | None, until: str | None, now_ms: int) -> tuple[int | None, int | None]:
    """``--since`` and ``--until`` in UTC milliseconds; None if the option is missing.

    ``--since`` must be before ``--until``, or before tomorrow if there is no ``--until``.
    """
    try:
        return parse_span(since, until, now_ms, names=("--since", "--until"))
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def builds_since(since: str, now_ms: int, until: str | None = None) -> tuple[int, int]:
    """``--since`` and ``--until`` for builds of Jenkins, in UTC milliseconds. ``--until`` defaults to tomorrow."""
    begin, end = time_span(since, until, now_ms)
    return begin or 0, now_ms + FUTURE_MS if end is None else end


def moment(option: str, text: str, now_ms: int) -> int:
    """A time in UTC milliseconds: ``now``, ``24h`` (ago), ``2026-01-31``, ``2026-01-31T18:00:00Z``."""
    try:
        return parse_end(option, text, now_ms)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


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
    """The pattern of the selected jobs; None: all jobs."""
    try:
        return None if text is None else Pattern.parse(text)
    except RuleError as error:
        raise click.UsageError(f"{option}: {error}") from None
