"""A fact about a build as one line of text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from agent.model.build import Build
from agent.model.fact import Report

if TYPE_CHECKING:
    from agent.inspect.queue import FactView

# The event shows the times; given values are marked.
_LEFT_OUT = ("started_at", "ended_at", "given")


def in_words(fact: FactView) -> str:
    """``final SUCCESS``, ``report status SUCCESS, environment staging (team shop)``."""
    match fact.body:
        case Build() as build:
            said = build.result or "no result"
        case Report() as report:
            fields = msgspec.to_builtins(report)
            written = dict.fromkeys(report.given, " (given)")
            said = ", ".join(
                f"{name} {value}{written.get(name, '')}" for name, value in fields.items() if name not in _LEFT_OUT
            )
        case str() as text:
            said = text
        case None:
            said = "" if fact.started_at is None else f"started {fact.started_at}"
    team = f" (team {fact.team})" if fact.team else ""
    return f"{fact.kind} {said}{team}".strip()
