"""A configuration for others to read: known keys with their values, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.inspect.redacted import hidden_values, without_values
from tests.unit.test_docs import EXAMPLE

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "T0kenX9f8e7d6c5b4a32"


@pytest.mark.parametrize(
    "line",
    [
        'url = "https://jenkins.example.com/jenkins/"',
        'token_file = "jenkins.token"',
        "concurrency = 8",
        'roots = ["deploy", "services"]',
        "[[jenkins]]",
        "since = 2026-01-31",
        'job = "re:^deploy/(?P<app>[^/]+)#$"',
        "teams = { payments = \"payments.token\", shop = { token_file = 'shop.token', jobs = ['shop/**'] } }",
    ],
)
def test_what_the_configuration_knows_is_shown(line: str, tmp_path: Path) -> None:
    assert without_values(line, tmp_path) == line + "\n"
    assert list(hidden_values(line, tmp_path)) == []


@pytest.mark.parametrize(
    "text",
    [
        f'token = "{SECRET}"',
        f"token = {SECRET}",
        f'  hivel.token = "{SECRET}"',
        f"# {SECRET}",
        f'url = "https://h" # {SECRET}',
        f'url = "https://user:{SECRET}@h"',
        f'token_file = "{SECRET}"',
        f'[web]\npassword_file = "{SECRET}"',
        f'[web]\nview_password_file = "{SECRET}"',
        f'[web]\nview_token_file = "{SECRET}"',
        f'[web.proxy]\nsecret_file = "{SECRET}"',
        f'proxy = {{ user_header = "X-User", secret_file = "{SECRET}", operators = ["ops"] }}',
        f'[[webhook]]\nsecret_files = ["a.secret", "{SECRET}"]',
        f'[[webhook]]\nsecret_files = [\n"{SECRET}",\n]',
        f'url_file = "https://chat.example.com/hooks/{SECRET}"',
        f'[intake.teams]\npayments = "{SECRET}"',
        f'teams = {{ payments = "{SECRET}" }}',
        f'teams = {{ payments = {{ token_file = "{SECRET}" }} }}',
        f'teams = {{ payments = {{ token = "{SECRET}" }} }}',
        f'password = """\n{SECRET}\n"""',
        f'job = """\n{SECRET}\n"""',
        f"{SECRET}",
        f'keys = [\n"{SECRET}",\n]',
        f'"{SECRET}',
        f'[hivel]\nurl = {{ token = "{SECRET}" }}',
    ],
)
def test_what_may_be_a_secret_is_hidden(text: str, tmp_path: Path) -> None:
    shown = without_values(text, tmp_path)
    assert SECRET not in shown
    assert shown.count("\n") == text.count("\n") + 1
    if "#" not in text:
        assert any(SECRET in value for value in hidden_values(text, tmp_path))


@pytest.mark.parametrize(
    "line",
    [
        'password_file = "web.password"',
        'proxy = { user_header = "X-User", secret_file = "proxy.secret", operators = ["release-team"] }',
        'secret_files = ["a.secret", "/etc/b"]',
    ],
)
def test_names_of_files_with_secrets_are_shown(line: str, tmp_path: Path) -> None:
    assert without_values(line, tmp_path) == f"{line}\n"


def test_a_list_over_several_lines_is_shown(tmp_path: Path) -> None:
    text = 'roots = [\n  "deploy",\n  "services",\n]\n'
    assert without_values(text, tmp_path) == text


def test_maps_with_names_of_their_own_are_shown(tmp_path: Path) -> None:
    text = '[environments]\nprod = "production"\n[status]\nUNSTABLE = "failed"\n'
    assert without_values(text, tmp_path) == text


def test_the_example_loses_its_comments_and_nothing_else(tmp_path: Path) -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    without_comments = "".join("\n" if line.startswith("#") else f"{line}\n" for line in text.splitlines())
    assert without_values(text, tmp_path) == without_comments


@given(st.text(alphabet=st.sampled_from("ab \"'#=[]{}\n\\.,:/@"), max_size=60))
def test_any_text_keeps_its_lines(text: str) -> None:
    from pathlib import Path

    assert without_values(text, Path("/none")).count("\n") == len(text.splitlines())
