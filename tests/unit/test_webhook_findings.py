"""``check``: what a webhook lacks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent.config.file import load
from agent.inspect.webhooks import webhooks

if TYPE_CHECKING:
    from pathlib import Path

BASE = '[hivel]\nurl = "https://hivel.test"\ntoken_file = "secret"\n'
LISTEN = '[webhooks]\nlisten = "127.0.0.1:9472"\n'
GITHUB = '[[webhook]]\nname = "a"\nplatform = "github"\nsecret_file = "secret"\n'


def findings(folder: Path, text: str) -> list[tuple[str, str, str]]:
    (folder / "secret").write_text("0123456789abcdef\n")
    (folder / "config.toml").write_text(BASE + text)
    return [(each.level.value, each.subject, each.message) for each in webhooks(load(folder / "config.toml"))]


def test_without_webhooks_nothing_is_said(tmp_path: Path) -> None:
    assert findings(tmp_path, "") == []


def test_a_complete_webhook_is_ok(tmp_path: Path) -> None:
    assert findings(tmp_path, LISTEN + GITHUB) == [
        ("ok", "webhook a", "github can send deliveries to /v1/hooks/a"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "level", "words"),
    [
        (GITHUB, "warning", "no platform can reach the webhooks: set [webhooks] listen"),
        (LISTEN, "warning", "there is no [[webhook]]"),
        (LISTEN + GITHUB.replace('"secret"', '"gone"'), "error", "its secret cannot be read: cannot read "),
        (LISTEN + GITHUB.replace('secret_file = "secret"', 'secret_files = ["secret", "gone"]'), "warning",
         "its secret cannot be read: cannot read "),
        (LISTEN + GITHUB.replace('"github"', '"circleci"'), "warning", "without [[webhook.rule]], all deliveries are "),
        (LISTEN + GITHUB + 'environments = ["prod"]\n[[webhook.rule]]\nname = "x"\nenvironment = "qa"\n', "warning",
         "the rule for x has the environment qa, which is not in environments"),
        (LISTEN + GITHUB + 'repair = ["acme/shop"]\n', "warning", "which requires a token: set api_token_file"),
        (LISTEN + GITHUB + 'api_token_file = "secret"\n', "warning", "repair names no project"),
        (LISTEN + GITHUB + 'repair = ["acme/shop"]\napi_token_file = "gone"\n', "warning",
         "missed deployments cannot be asked for: cannot read "),
        (LISTEN + GITHUB.replace('"github"', '"azure_devops"') + 'repair = ["acme/shop"]\napi_token_file = "secret"\n',
         "warning", 'set projects = ["acme/shop"] in a [[webhook]] of its own'),
        (LISTEN + GITHUB.replace('"github"', '"argocd"') + 'repair = ["argocd/shop"]\napi_token_file = "secret"\n',
         "warning", "Argo has no list of past deployments"),
    ],
)  # fmt: skip
def test_what_a_webhook_lacks_is_said_with_what_to_do(tmp_path: Path, text: str, level: str, words: str) -> None:
    found = findings(tmp_path, text)
    assert any(each[0] == level and words in each[2] for each in found), found
