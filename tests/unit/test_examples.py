"""Examples of the configuration: what passes, what fails, and what is said about it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from agent.cli.main import cli
from agent.config import file as config
from agent.inspect.examples import run_examples

if TYPE_CHECKING:
    from pathlib import Path

    from agent.inspect.examples import ExampleResult

HEAD = """\
[hivel]
url = "https://app.hivel.test"
[[jenkins]]
url = "https://jenkins.test"
[environments]
prod = "production"
"""
RULE = """\
[[deployment]]
job = "deploy/*"
environment = "{params.ENVIRONMENT}"
"""
STAGES = """\
[[deployment]]
job = "pipeline"
stage = "re:^Deploy to (?P<environment>.+)$"
environment = "{environment}"
"""
BUILD = """\
[[example]]
job = "deploy/shop"
parameters = { ENVIRONMENT = "prod" }
repository = "https://github.com/acme/shop.git"
branch = "main"
"""


@pytest.fixture(autouse=True)
def tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIVEL_API_TOKEN", "token-of-hivel")


def results(tmp_path: Path, text: str) -> list[ExampleResult]:
    file = tmp_path / "config.toml"
    file.write_text(HEAD + text)
    return run_examples(config.load(file))


def test_an_example_passes_if_the_fields_that_it_names_are_equal(tmp_path: Path) -> None:
    expected = 'expect = [{ environment = "production", branch = "main", status = "success" }]\n'
    [result] = results(tmp_path, RULE + BUILD + expected)
    assert result.passes and not result.problems
    assert result.deployments[0]["repo_url"] == "https://github.com/acme/shop.git"


@pytest.mark.parametrize(
    ("expected", "problem"),
    [
        ('[{ environment = "prod" }]', 'deployment 1: environment is "production", expected "prod"'),
        ('[{ image = "shop:1" }]', 'deployment 1: image is missing, expected "shop:1"'),
        ("[]", 'one deployment too many: status "success", environment "production"'),
        ('[{}, { status = "failed" }]', 'deployment 2 is missing: status "failed"'),
    ],
)
def test_what_differs_is_named(tmp_path: Path, expected: str, problem: str) -> None:
    [result] = results(tmp_path, RULE + BUILD + f"expect = {expected}\n")
    assert not result.passes
    assert problem in "\n".join(result.problems)


def test_a_job_without_a_rule_gives_no_deployment(tmp_path: Path) -> None:
    [result] = results(tmp_path, RULE + '[[example]]\njob = "build/shop"\nexpect = []\n')
    assert result.passes


def test_why_there_can_be_no_event_can_be_expected(tmp_path: Path) -> None:
    text = RULE + '[[example]]\njob = "deploy/shop"\nparameters = { ENVIRONMENT = "prod" }\n'
    [result] = results(tmp_path, text)
    reason = result.deployments[0]["reason"]
    [again] = results(tmp_path, text + f"expect = [{{ reason = {json.dumps(reason)} }}]\n")
    assert again.passes


def test_expected_deployments_may_stand_in_any_order(tmp_path: Path) -> None:
    text = STAGES + BUILD.replace("deploy/shop", "pipeline") + 'stages = ["Deploy to eu", "Test", "Deploy to us"]\n'
    for order in ("eu", "us"), ("us", "eu"):
        expected = ", ".join(f'{{ environment = "{name}" }}' for name in order)
        [result] = results(tmp_path, f"{text}expect = [{expected}]\n")
        assert result.passes, result.problems


def test_the_verb_fails_if_an_example_fails_and_if_there_is_none(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"

    def called(text: str, *options: str) -> tuple[int, str]:
        file.write_text(HEAD + RULE + text)
        done = CliRunner().invoke(cli, ["--config", str(file), "rules", "test", *options])
        return done.exit_code, done.output

    assert called(BUILD + 'expect = [{ branch = "main" }]\n') == (
        0, "passes  [[example]] number 1  deploy/shop\n1 of 1 example(s) pass\n"
    )  # fmt: skip
    code, told = called(BUILD + 'expect = [{ branch = "next" }]\n')
    assert code == 1 and 'deployment 1: branch is "main", expected "next"' in told
    code, told = called(BUILD + 'expect = [{ branch = "next" }]\n', "--json")
    assert code == 1 and json.loads(told)[0]["passes"] is False
    code, told = called("")
    assert code == 1 and "has no [[example]]" in told


def test_a_field_that_no_event_has_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(config.ConfigError, match="number 1 has the unknown field branhc; known: status, environment"):
        results(tmp_path, RULE + BUILD + 'expect = [{ branhc = "next" }]\n')
