"""The settings of ``[webhooks]`` and ``[[webhook]]``, checked while they are read."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from agent.config.credentials import Secret, Token, TokenError, find_token
from agent.config.settings import WebhookRule, WebhookSettings, WebhooksSettings
from agent.config.values import NOT_READ

if TYPE_CHECKING:
    from pathlib import Path

    from agent.config import tables
    from agent.config.settings import Platform
    from agent.config.values import Values

# A part of the path /v1/hooks/<name>.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# The API of a platform that most people use. Azure DevOps: the organisation is part of the address.
API_URLS: dict[Platform, str] = {
    "github": "https://api.github.com",
    "gitlab": "https://gitlab.com",
    "circleci": "https://circleci.com",
}


def webhooks(check: Values, raw: tables.Webhooks, hooks: list[tables.Webhook]) -> WebhooksSettings | None:
    """The settings of all webhooks; None if there are none."""
    address = check.address("webhooks.listen", raw.listen or "")
    if address is None and not hooks:
        return None
    names: set[str] = set()
    for i, hook in enumerate(hooks):
        if not _NAME.fullmatch(hook.name):
            check.note(
                f"webhook[{i}].name",
                f"{hook.name!r} is not valid as the end of /v1/hooks/<name>; write letters, digits, ., - or _",
            )
        elif hook.name.lower() in names:
            check.note(f"webhook[{i}].name", f"another webhook has the name {hook.name!r}; give each its own name")
        names.add(hook.name.lower())
    return WebhooksSettings(address, tuple(_hook(check, f"webhook[{i}]", hook) for i, hook in enumerate(hooks)))


def _hook(check: Values, key: str, raw: tables.Webhook) -> WebhookSettings:
    return WebhookSettings(
        name=raw.name,
        platform=raw.platform,
        secrets=_secrets(check, key, raw),
        projects=check.patterns(f"{key}.projects", raw.projects),
        environments=check.patterns(f"{key}.environments", raw.environments),
        rules=tuple(rule for i, each in enumerate(raw.rule) if (rule := _rule(check, f"{key}.rule[{i}]", each))),
        transient=raw.transient,
        self_heal=raw.self_heal,
        partial=raw.partial,
        pages_url=check.url(f"{key}.url", raw.url).rstrip("/") if raw.url else "",
        api_url=check.url(f"{key}.api_url", raw.api_url).rstrip("/") if raw.api_url else API_URLS.get(raw.platform, ""),
        api_token=_api_token(check, key, raw),
        repair=_projects(check, f"{key}.repair", raw.repair),
        tls=check.tls(key, raw),
    )


def _rule(check: Values, key: str, raw: tables.WebhookRule) -> WebhookRule | None:
    project, name = check.pattern(f"{key}.project", raw.project), check.pattern(f"{key}.name", raw.name)
    if not raw.environment.strip():
        check.note(f"{key}.environment", "is empty; write the environment's name")
    if project is None or name is None:
        return None
    repo_url, branch = (raw.repo_url or "").strip(), (raw.branch or "").strip()
    return WebhookRule(project, name, raw.environment.strip(), repo_url, branch)


def _projects(check: Values, key: str, names: list[str]) -> tuple[str, ...]:
    for name in names:
        if not name.isprintable() or "*" in name or not all(part.strip() for part in name.split("/")):
            check.note(key, f"{name!r} is not the full name of a project; write it like group/shop")
    return tuple(names)


# ---- secrets


def _secrets(check: Values, key: str, raw: tables.Webhook) -> tuple[Token, ...]:
    """All secrets that are accepted. One that cannot be read affects only this webhook, and can be readable later."""
    if raw.secret_file is not None and raw.secret_files:
        check.note(f"{key}.secret_file", "cannot be set together with secret_files; write all files there")
    files = [(f"{key}.secret_file", raw.secret_file)] if raw.secret_file is not None else []
    files += [(f"{key}.secret_files[{i}]", file) for i, file in enumerate(raw.secret_files)]
    if not check.reads_tokens:
        return (NOT_READ,)
    paths = [check.path(place, file) for place, file in files]
    places: list[Path | None] = [*paths] or [None]
    found = [_found(path, "webhook-secret", raw.name, Secret) for path in places]
    secrets = tuple(secret for secret in found if secret is not None)
    if not secrets:
        check.note(
            f"{key}.secret_file",
            f"no secret: set a file here, or the environment variable {variable_of('webhook-secret', raw.name)}, or "
            f"systemd's credential webhook-secret.{raw.name}",
        )
    return secrets


def _api_token(check: Values, key: str, raw: tables.Webhook) -> Token | None:
    path = None if raw.api_token_file is None else check.path(f"{key}.api_token_file", raw.api_token_file)
    if not check.reads_tokens:
        return None if path is None else NOT_READ
    return _found(path, "webhook-api-token", raw.name, Token)


def _found(path: Path | None, credential: str, hook: str, kind: type[Token]) -> Token | None:
    try:
        return find_token(path, variable_of(credential, hook), f"{credential}.{hook}", kind)
    except TokenError as error:
        return kind.missing(error)


def variable_of(credential: str, hook: str) -> str:
    """The environment variable for a credential of a webhook: ``HIVEL_AGENT_WEBHOOK_SECRET_GITHUB``."""
    return f"HIVEL_AGENT_{re.sub(r'[^A-Z0-9]', '_', f'{credential}_{hook}'.upper())}"
