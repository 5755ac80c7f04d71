"""Advice for failed deployments, by reasons of this version and by those that older versions stored."""

from __future__ import annotations

import pytest

from agent.config.rules import without_value
from agent.inspect.advice import what_to_do
from agent.model.build import TOO_LONG

PARAMETER = "The rule reads a parameter whose value is not known. Use another field in the rule, then replay."


@pytest.mark.parametrize("kind", ["password", "run", TOO_LONG])
def test_a_parameter_without_a_value_leads_to_another_field_of_the_rule(kind: str) -> None:
    assert what_to_do(without_value("params.X", {"X": kind})) == PARAMETER


@pytest.mark.parametrize(
    "reason",
    [
        "{params.X} is a password parameter, of which Jenkins tells no value",
        "{params.X} is not kept: the parameters of the build have more than 4000 characters together",
    ],
)
def test_a_reason_that_an_older_version_stored_gets_the_same_advice(reason: str) -> None:
    assert what_to_do(reason) == PARAMETER
