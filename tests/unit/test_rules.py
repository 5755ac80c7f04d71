"""Rules: which jobs deploy, and what templates make of a build."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config.rules import (
    MaskedParameterError,
    Pattern,
    Rule,
    RuleError,
    Template,
    default_rules,
    first_match,
)


def matches(pattern: str, full_name: str) -> bool:
    return Pattern.parse(pattern).match(full_name) is not None


@pytest.mark.parametrize(
    ("pattern", "full_name"),
    [
        ("deploy-shop", "deploy-shop"),
        ("deploy-*", "deploy-shop"),
        ("deploy-*", "deploy-"),
        ("*/deploy", "team-a/deploy"),
        ("**/deploy", "deploy"),
        ("**/deploy", "a/b/c/deploy"),
        ("team-a/**", "team-a/b/c"),
        ("team-a/**/deploy-*", "team-a/deploy-shop"),
        ("team-a/**/deploy-*", "team-a/x/y/deploy-shop"),
        ("**", "anything/at all"),
        ("deploy-?", "deploy-1"),
        ("shop-mb/feature%2Fx", "shop-mb/feature%2Fx"),
        ("jöb + 1 (old).[x]", "jöb + 1 (old).[x]"),
        ("re:deploy", "team/my-deploy-job"),
        ("re:^deploy-(eu|us)$", "deploy-eu"),
        ("re:(?i)deploy", "team/DEPLOY"),
    ],
)
def test_a_pattern_matches(pattern: str, full_name: str) -> None:
    assert matches(pattern, full_name)


@pytest.mark.parametrize(
    ("pattern", "full_name"),
    [
        ("deploy", "deploy-shop"),
        ("deploy", "my-deploy"),
        ("deploy", "Deploy"),
        ("deploy", "deploy\n"),
        ("deploy-*", "deploy-shop/main"),  # one star stays within a folder
        ("*/deploy", "deploy"),
        ("*/deploy", "a/b/deploy"),
        ("**/deploy", "my-deploy"),
        ("team-a/**", "team-ab/c"),
        ("deploy-?", "deploy-/"),
        ("a.c", "abc"),
        ("[ab]", "a"),
        ("re:^deploy$", "deploy-eu"),
    ],
)
def test_a_pattern_does_not_match(pattern: str, full_name: str) -> None:
    assert not matches(pattern, full_name)


@given(st.text(st.characters(exclude_characters="*?"), min_size=1).filter(lambda text: not text.startswith("re:")))
def test_a_name_without_wildcards_matches_itself_alone(name: str) -> None:
    assert matches(name, name)
    assert not matches(name, name + "x")


def test_named_groups_are_what_the_expression_found() -> None:
    pattern = Pattern.parse(r"re:^(?P<team>[^/]+)/deploy(-(?P<region>\w+))?$")
    assert pattern.match("shop/deploy-eu") == {"team": "shop", "region": "eu"}
    assert pattern.match("shop/deploy") == {"team": "shop"}


@pytest.mark.parametrize("text", ["re:(", "re:[a", "re:*", "re:(?P<1>a)", r"re:\g"])
def test_a_broken_expression_is_a_rule_error_that_quotes_it(text: str) -> None:
    with pytest.raises(RuleError, match="is not a regular expression") as error:
        Pattern.parse(text)
    assert repr(text) in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("re:a{99999999999999999999}", id="repeated beyond all numbers"),
        pytest.param("re:" + "(" * 5000 + ")" * 5000, id="nested beyond all depths"),
    ],
)
def test_an_expression_that_python_cannot_hold_is_a_rule_error(text: str) -> None:
    with pytest.raises(RuleError):
        Pattern.parse(text)


@given(st.text() | st.text("()[]{}?*+|\\^$ab1,P<>:=!-i").map("re:".__add__))
def test_a_pattern_is_usable_or_a_rule_error(text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # re warns about expressions that will mean something else one day
        try:
            pattern = Pattern.parse(text)
        except RuleError:
            return
    groups = pattern.match("deploy")
    assert groups is None or isinstance(groups, dict)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("production", "production"),
        ("  production  ", "production"),
        ("{params.ENVIRONMENT}", "staging"),
        ("{params.EMPTY}|production", "production"),
        ("{params.ABSENT}|{params.BLANK}|{team}", "shop"),
        ("{params.ENVIRONMENT}|production", "staging"),
        ("{team}-{params.ENVIRONMENT}", "shop-staging"),
        ("{team}-{params.ABSENT}|{job}", "team/deploy"),
        ("https://github.com/acme/{team}.git", "https://github.com/acme/shop.git"),
        ("{branch}", "main"),
        ("{job.environment}", "qa"),
        ("{params.PADDED}", "dev"),
        ("{params.BRACES}", "{job}"),  # a value is never a template itself
        ("{params.ABSENT}", None),
        ("{params.EMPTY}-x|{params.BLANK}", None),
    ],
)
def test_the_first_alternative_with_all_its_values_is_taken(template: str, text: str | None) -> None:
    fields = {
        "job": "team/deploy",
        "branch": "main",
        "job.environment": "qa",
        "team": "shop",
        "params.ENVIRONMENT": "staging",
        "params.EMPTY": "",
        "params.BLANK": " \n",
        "params.PADDED": " dev\n",
        "params.BRACES": "{job}",
    }
    assert Template.parse(template, groups=("team",)).render(fields) == text


@pytest.mark.parametrize("text", ["", " ", "|", "a|", "|a", "a||b"])
def test_an_alternative_with_nothing_in_it_is_refused(text: str) -> None:
    with pytest.raises(RuleError, match=r"one side of a \| is empty"):
        Template.parse(text)


@pytest.mark.parametrize("text", ["{", "}", "{job", "job}", "{{job}}", "{job}}", "{params.{job}}"])
def test_braces_that_do_not_pair_are_refused(text: str) -> None:
    with pytest.raises(RuleError, match="a brace is not paired"):
        Template.parse(text)


@pytest.mark.parametrize("text", ["{params.ENVIRONMENT|production}", "{params.A|params.B}", "{job|branch}"])
def test_an_alternative_inside_of_braces_is_refused(text: str) -> None:
    with pytest.raises(RuleError):
        Template.parse(text)


@pytest.mark.parametrize("field", ["", "team", "params", "params.", "Job", "job ", "environment"])
def test_an_unknown_field_is_refused_with_those_that_exist(field: str) -> None:
    with pytest.raises(RuleError) as error:
        Template.parse(f"{{{field}}}", groups=("region",))
    assert f"there is no field {{{field}}}" in str(error.value)
    assert "{params.NAME}, {job}, {job.environment}, {number}, {repo_url}, {branch}, {commit}, {region}" in str(
        error.value
    )


_TEMPLATES = st.text() | st.builds(
    "".join, st.lists(st.sampled_from(["{", "}", "|", "{job}", "{branch}", "{params.X}", "params.", "prod", " "]))
)


@given(_TEMPLATES, st.dictionaries(st.sampled_from(["job", "branch", "params.X"]), st.text()))
def test_a_template_is_a_rule_error_or_gives_text_or_none(text: str, fields: dict[str, str]) -> None:
    try:
        template = Template.parse(text)
    except RuleError:
        return
    rendered = template.render(fields)
    assert rendered is None or rendered.strip()


@given(_TEMPLATES)
def test_no_brace_of_a_template_comes_out_of_it(text: str) -> None:
    try:
        template = Template.parse(text)
    except RuleError:
        return
    rendered = template.render({"job": "shop", "branch": "main", "params.X": "x"})
    assert rendered is None or not set("{}|") & set(rendered)


def test_a_password_parameter_is_told_and_not_taken_for_a_missing_one() -> None:
    template = Template.parse("{params.SECRET}|{params.ABSENT}")
    with pytest.raises(MaskedParameterError, match=r"\{params\.SECRET\} is a password parameter"):
        template.render({}, masked=["SECRET"])
    with pytest.raises(MaskedParameterError, match=r"\{params\.SECRET\} is a file parameter"):
        template.render({}, masked=["SECRET"], kinds={"SECRET": "file"})


def test_the_alternative_behind_a_parameter_without_a_value_is_tried() -> None:
    template = Template.parse("{params.SECRET}|{branch}|production")
    assert template.render({}, masked=["SECRET"]) == "production"
    assert template.render({"branch": "main"}, masked=["SECRET"]) == "main"


def test_a_password_parameter_behind_a_value_is_never_read() -> None:
    template = Template.parse("{params.ENVIRONMENT}|{params.SECRET}")
    assert template.render({"params.ENVIRONMENT": "qa"}, masked=["SECRET"]) == "qa"


def rule(job: str, environment: str = "production") -> Rule:
    return Rule(Pattern.parse(job), Template.parse(environment))


def test_the_first_rule_that_matches_is_the_one() -> None:
    rules = [rule("team-a/*"), rule(r"re:^team-a/(?P<name>.+)$"), rule("**")]
    found = first_match(rules, "team-a/deploy")
    assert found is not None
    assert (found.rule, found.groups) == (rules[0], {})
    found = first_match(rules, "team-a/b/deploy")
    assert found is not None
    assert (found.rule, found.groups) == (rules[1], {"name": "b/deploy"})


def test_a_job_that_no_rule_matches_is_no_deployment() -> None:
    assert first_match([rule("deploy-*")], "build-shop") is None
    assert first_match([], "deploy") is None


@pytest.mark.parametrize("full_name", ["deploy", "team/Deploy-Shop", "shop-DEPLOY/main", "redeployment"])
def test_without_rules_a_job_with_deploy_in_its_full_name_is_a_deployment(full_name: str) -> None:
    assert first_match(default_rules(), full_name) is not None


@pytest.mark.parametrize("full_name", ["build", "depl/oy", "release-prod"])
def test_without_rules_other_jobs_are_no_deployments(full_name: str) -> None:
    assert first_match(default_rules(), full_name) is None
