"""Hides the values of build parameters from visitors who may not act. Names of parameters stay visible."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from agent.model.build import Build
from agent.model.secrets import HIDDEN

if TYPE_CHECKING:
    from agent.inspect.explain import Explanation
    from agent.inspect.queue import FactView
    from agent.inspect.words import WordView

_PARAMETER = "parameter "


def without_parameters(build: Build) -> Build:
    """The build and the builds related to it, with the names of parameters alone."""
    return replace(
        build,
        parameters=dict.fromkeys(build.parameters, HIDDEN),
        related=tuple(replace(each, build=without_parameters(each.build)) for each in build.related),
        inherited=None if build.inherited is None else without_parameters(build.inherited),
    )


def hidden_in_fact(fact: FactView) -> FactView:
    """A fact that may have a build as its body. The text of a report that cannot be understood is hidden too."""
    match fact.body:
        case Build() as build:
            return replace(fact, body=without_parameters(build))
        case str():
            return replace(fact, body=HIDDEN)
        case _:
            return fact


def hidden_in_words(words: dict[str, list[WordView]]) -> dict[str, list[WordView]]:
    """What was said about each field, without the values of parameters."""
    return {
        field: [replace(each, says=HIDDEN) if each.who.startswith(_PARAMETER) else each for each in said]
        for field, said in words.items()
    }


def hidden_in_explanation(explanation: Explanation) -> Explanation:
    """An explanation for a visitor who may not act."""
    return replace(
        explanation,
        facts=[hidden_in_fact(each) for each in explanation.facts],
        words={name: hidden_in_words(words) for name, words in explanation.words.items()},
    )
