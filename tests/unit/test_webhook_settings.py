"""``[webhooks]``, ``[[webhook]]`` and ``[[webhook.rule]]``: their meaning, and errors with line and key."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.config.credentials import TokenError
from agent.config.file import ConfigError, load
from agent.config.settings import Address, Settings, WebhookSettings

BASE = '[hivel]\nurl = "https://hivel.test"\ntoken_file = "hivel"\n[[jenkins]]\nurl = "https://ci.test/"\n'
GITHUB = '[[webhook]]\nname = "github"\nplatform = "github"\nsecret_file = "github"\n'

Load = Callable[[str], Settings]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Load a text as a file with two secrets beside it."""
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    for name in ("hivel", "github", "next"):
        (tmp_path / name).write_text(f"secret-of-{name}\n", encoding="utf-8")

    def load_text(text: str) -> Settings:
        file = tmp_path / "config.toml"
        file.write_text(BASE + text, encoding="utf-8")
        return load(file)

    return load_text


def hook(loaded: Settings) -> WebhookSettings:
    assert loaded.webhooks is not None
    [found] = loaded.webhooks.hooks
    return found


def problems(load_text: Load, text: str) -> list[str]:
    with pytest.raises(ConfigError) as error:
        load_text(text)
    return [f"{each.line} {each.key}: {each.problem}" for each in error.value.problems]


def test_without_the_tables_there_are_no_webhooks(settings: Load) -> None:
    assert settings("").webhooks is None


def test_every_key_is_read(settings: Load) -> None:
    loaded = settings(
        '[webhooks]\nlisten = "0.0.0.0:9472"\n' + GITHUB + 'projects = ["acme/*"]\nenvironments = ["prod*"]\n'
        "transient = true\nself_heal = true\npartial = true\n"
        'url = "https://pages.test/"\napi_url = "https://api.test/v3/"\nrepair = ["acme/shop"]\n'
        'api_token_file = "next"\n'
        '[[webhook.rule]]\nproject = "acme/*"\nname = "deploy-*"\nenvironment = "production"\n'
        '[[webhook.rule]]\nname = "**"\nenvironment = "staging"\nrepo_url = "https://git.test/shop"\nbranch = "main"\n'
        '[[webhook.rule]]\nname = "later"\nenvironment = "development"\n'
    )
    assert loaded.webhooks is not None
    assert loaded.webhooks.address == Address("0.0.0.0", 9472)
    found = hook(loaded)
    assert (found.name, found.platform, found.transient) == ("github", "github", True)
    assert [secret.reveal() for secret in found.secrets] == ["secret-of-github"]
    assert (found.pages_url, found.api_url, found.repair) == (
        "https://pages.test",
        "https://api.test/v3",
        ("acme/shop",),
    )
    assert found.api_token is not None
    assert found.api_token.reveal() == "secret-of-next"
    assert found.refuses_project("other/shop")
    assert not found.refuses_project("acme/shop")
    assert found.refuses_environment("staging")
    assert not found.refuses_environment("production")
    assert found.environment_of("acme/shop", "deploy-eu") == "production"
    assert found.environment_of("other/shop", "build") == "staging"
    assert (found.self_heal, found.partial) == (True, True)
    rule = found.rule_of("other/shop", "build")
    assert rule is not None
    assert (rule.repo_url, rule.branch) == ("https://git.test/shop", "main")


def test_the_first_rule_that_matches_any_of_the_names_counts(settings: Load) -> None:
    found = hook(
        settings(
            GITHUB + '[[webhook.rule]]\nname = "shop/deploy"\nenvironment = "production"\n'
            '[[webhook.rule]]\nname = "deploy"\nenvironment = "staging"\n'
        )
    )
    assert found.environment_of("acme/shop", "deploy", "shop/deploy") == "production"
    assert found.environment_of("acme/shop", "deploy", "cart/deploy") == "staging"
    assert found.rule_of("acme/shop", "build") is None


def test_each_of_several_secrets_is_accepted(settings: Load) -> None:
    found = hook(settings(GITHUB.replace('secret_file = "github"', 'secret_files = ["github", "next"]')))
    assert [secret.reveal() for secret in found.secrets] == ["secret-of-github", "secret-of-next"]


def test_a_secret_can_come_from_the_environment_or_a_credential(
    settings: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = GITHUB.replace('secret_file = "github"\n', "").replace('name = "github"', 'name = "git-hub"')
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / "webhook-secret.git-hub").write_text("a secret with blanks\n", encoding="utf-8")
    assert hook(settings(without)).secrets[0].reveal() == "a secret with blanks"
    monkeypatch.setenv("HIVEL_AGENT_WEBHOOK_SECRET_GIT_HUB", "from-the-environment")
    assert hook(settings(without)).secrets[0].reveal() == "from-the-environment"


def test_a_secret_that_cannot_be_read_affects_only_its_webhook(settings: Load) -> None:
    found = hook(settings(GITHUB.replace('secret_file = "github"', 'secret_file = "gone"')))
    with pytest.raises(TokenError, match=r"cannot read .*/gone: No such file or directory"):
        found.secrets[0].reveal()


def test_without_a_listener_the_webhooks_are_configured_but_nothing_listens(settings: Load) -> None:
    loaded = settings(GITHUB)
    assert loaded.webhooks is not None
    assert loaded.webhooks.address is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            GITHUB.replace('secret_file = "github"\n', ""),
            "6 webhook[0].secret_file: no secret: set a file here, or the environment variable "
            "HIVEL_AGENT_WEBHOOK_SECRET_GITHUB, or systemd's credential webhook-secret.github",
        ),
        (
            GITHUB.replace('secret_file = "github"', 'secret = "hunter2-hunter2"'),
            "9 webhook[0].secret: unknown key; the configuration does not contain the secret: write it to a file "
            'that only the agent can read, and set secret_file = "FILE"',
        ),
        (
            GITHUB + 'api_token = "hunter2-hunter2"',
            "10 webhook[0].api_token: unknown key; the configuration does not contain the token: write it to a file "
            'that only the agent can read, and set api_token_file = "FILE"',
        ),
        (
            GITHUB + 'secret_files = ["next"]\n',
            "9 webhook[0].secret_file: cannot be set together with secret_files; write all files there",
        ),
        (
            GITHUB.replace('name = "github"', 'name = "a/b"'),
            "7 webhook[0].name: 'a/b' is not valid as the end of /v1/hooks/<name>; write letters, digits, ., - or _",
        ),
        (GITHUB + GITHUB, "11 webhook[1].name: another webhook has the name 'github'; give each its own name"),
        (
            GITHUB.replace('platform = "github"', 'platform = "bitbucket"'),
            '8 webhook[0].platform: \'bitbucket\' is not valid here; write "argo_rollouts" or "argocd" or '
            '"azure_devops" or "circleci" or "github" or "gitlab"',
        ),
        (
            GITHUB + '[[webhook.rule]]\nname = "deploy"\nenvironment = " "\n',
            "12 webhook[0].rule[0].environment: is empty; write the environment's name",
        ),
        (
            GITHUB + '[[webhook.rule]]\nname = "deploy"\n',
            "10 webhook[0].rule[0].environment: this key is required",
        ),
        (GITHUB + "projects = []\n", '10 webhook[0].projects: is empty; to allow everything, remove it or write "**"'),
        (
            GITHUB + 'repair = ["acme/*"]\n',
            "10 webhook[0].repair: 'acme/*' is not the full name of a project; write it like group/shop",
        ),
        (
            '[webhooks]\nlisten = "9472"\n',
            "7 webhooks.listen: '9472' is not an address; write it like 127.0.0.1:9469, or \"\" for none",
        ),
        (
            "[webhook]\n" + GITHUB.partition("\n")[2],
            "6 [webhook]: there can be several such tables; write [[webhook]] in double brackets",
        ),
    ],
)
def test_a_mistake_is_reported_with_its_line_and_key(settings: Load, text: str, expected: str) -> None:
    found = problems(settings, text)
    assert expected in found
    assert "hunter2" not in str(found)


def test_every_configuration_in_the_documentation_loads(settings: Load) -> None:
    page = (Path(__file__).parents[2] / "docs" / "webhooks.md").read_text(encoding="utf-8")
    blocks = [
        textwrap.dedent(block) for block in re.findall(r"^ *```toml\n(.*?)^ *```$", page, re.MULTILINE | re.DOTALL)
    ]
    assert blocks
    for block in blocks:
        loaded = settings(block if "[[webhook]]" in block or "[webhooks]" in block else GITHUB + block)
        assert loaded.webhooks is not None
