"""Deliveries of webhooks for tests: the bodies in ``tests/data/webhooks``, changed as a test needs it, and signed."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "data" / "webhooks"
SECRET = "secret of a webhook"
SIGNING_TOKEN = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def body(name: str, **changes: Any) -> dict[str, Any]:
    """The body of a file such as ``github/ping``. ``changes``: values by their path, with ``__`` in place of dots."""
    whole: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = whole
        for each in parents:
            place = place[each]
        if value is ...:
            del place[last]
        else:
            place[last] = value
    return whole


def at(ms: int) -> str:
    """A time as GitHub writes it."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def encoded(content: Any) -> bytes:
    return content if isinstance(content, bytes) else json.dumps(content).encode()


def github(content: Any, event: str, *, delivery: str = "", secret: str = SECRET) -> dict[str, str]:
    """The headers of a delivery by GitHub."""
    digest = hmac.new(secret.encode(), encoded(content), hashlib.sha256).hexdigest()
    headers = {"X-GitHub-Event": event, "X-Hub-Signature-256": f"sha256={digest}", "Content-Type": "application/json"}
    return headers | ({"X-GitHub-Delivery": delivery} if delivery else {})


def gitlab(content: Any, event: str, *, delivery: str, now_ms: int, token: str = SIGNING_TOKEN) -> dict[str, str]:
    """The headers of a delivery by GitLab with a signing token."""
    key = base64.b64decode(token.removeprefix("whsec_"))
    moment = str(now_ms // 1000)
    signed = hmac.new(key, f"{delivery}.{moment}.".encode() + encoded(content), hashlib.sha256).digest()
    return {
        "X-Gitlab-Event": event, "Idempotency-Key": delivery, "webhook-id": delivery, "webhook-timestamp": moment,
        "webhook-signature": f"v1,{base64.b64encode(signed).decode()}", "Content-Type": "application/json",
    }  # fmt: skip
