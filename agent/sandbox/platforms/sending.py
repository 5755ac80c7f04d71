"""Sends webhooks, signed as each platform signs them."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import TYPE_CHECKING

import httpx
import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.config.settings import Platform
    from agent.sandbox.platforms.model import Webhook

TIMEOUT_S = 30.0


def signature(platform: Platform, secret: str, body: bytes) -> Mapping[str, str]:
    """The header that proves the origin of a webhook."""
    match platform:
        case "github":
            digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
            return {"X-Hub-Signature-256": f"sha256={digest}"}
        case "circleci":
            return {"circleci-signature": "v1=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}
        case "gitlab":
            return {"X-Gitlab-Token": secret}
        case "azure_devops":  # `user:password`, or a password alone
            user_and_password = secret if ":" in secret else f"hivel:{secret}"
            return {"Authorization": "Basic " + base64.b64encode(user_and_password.encode()).decode()}
        case _:
            return {"Authorization": f"Bearer {secret}"}


def send(platform: Platform, url: str, secret: str, webhook: Webhook) -> httpx.Response:
    """POST one webhook. Raises :class:`httpx.HTTPError`."""
    body = msgspec.json.encode(webhook.body)
    headers = {"Content-Type": "application/json", **webhook.headers, **signature(platform, secret, body)}
    return httpx.post(url, content=body, headers=headers, timeout=TIMEOUT_S, trust_env=False)
