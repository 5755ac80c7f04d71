"""Redacting the values of build parameters, which can be confidential, in facts and in the values of sources."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from agent.model.build import Build
from agent.model.secrets import HIDDEN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.inspect.queue import FactView
    from agent.inspect.words import WordView


def without_values(build: Build) -> Build:
    """The build, and all builds in it, with ``***`` for each value of a parameter."""
    return replace(
        build,
        parameters=dict.fromkeys(build.parameters, HIDDEN),
        related=tuple(replace(each, build=without_values(each.build)) for each in build.related),
        inherited=None if build.inherited is None else without_values(build.inherited),
    )


def facts_without_values(facts: Sequence[FactView]) -> list[FactView]:
    """Facts with such builds. The text of an unreadable report is removed, because it can contain anything."""
    return [replace(fact, body=_hidden(fact.body)) for fact in facts]


def words_without_values(words: Sequence[WordView]) -> list[WordView]:
    """The values for a field, with those of parameters redacted."""
    return [replace(word, says=HIDDEN) if word.who.startswith("parameter ") else word for word in words]


def _hidden(body: object) -> object:
    if isinstance(body, Build):
        return without_values(body)
    return HIDDEN if isinstance(body, str) else body
