"""Expressions that others can keep busy are found before somebody does it; those that people write are not accused."""

from __future__ import annotations

import pytest

from agent.config.rules import DEFAULT_JOBS, Pattern
from agent.inspect.expressions import hard_names


@pytest.mark.parametrize(
    "text",
    [
        r"re:^(\w+\s?)*$",
        r"re:(a+)+$",
        r"re:^deploy-(\w+-?)+$",
        r"re:^services/([a-z]+/?)*prod$",
        r"re:(x|x)*y",
        r"re:^(.*/)*(.*/)*(.*/)*release$",
        r"re:.*a.*b.*c.*d",
        r"re:(?=(a+)+$)b",
        "**/**/**/**/**/release",
        "*a*a*a*a*a*b",
    ],
)
def test_an_expression_that_goes_back_for_ever_is_found(text: str) -> None:
    [name] = hard_names([Pattern.parse(text)])
    assert name is not None
    assert len(name) <= 2_100


@pytest.mark.parametrize(
    "text",
    [
        DEFAULT_JOBS,
        "**",
        "deploy/**",
        "**/deploy-*",
        "services/*/deploy",
        "github.com/acme/*",
        r"re:^deploy/(?P<app>[^/]+)$",
        r"re:(?i)^(?!.*test).*deploy",
        r"re:^services/(?P<service>[\w.-]+)/(?P<environment>staging|production)$",
        r"re:\bdeploy\b.*",
        r"re:Deploy (?:to )?(?P<environment>\w+)",
        r"re:(?i)deploy.*(prod|live)",
    ],
)
def test_an_expression_that_people_write_is_not_accused(text: str) -> None:
    assert hard_names([Pattern.parse(text)]) == [None]
