"""The name of an event and the id of a delivery, where each platform writes them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.config.settings import Platform
    from agent.model.part import Part

_EVENTS: dict[Platform, str] = {
    "github": "x-github-event", "gitlab": "x-gitlab-event", "circleci": "circleci-event-type",
}  # fmt: skip
# The first one that is there. They stay the same when a delivery is repeated. GitLab signs the first of its two.
_IDS: dict[Platform, tuple[str, ...]] = {"github": ("x-github-delivery",), "gitlab": ("webhook-id", "idempotency-key")}
_LONGEST = 100


def event_of(platform: Platform, headers: Mapping[str, str], body: Part) -> str:
    """The name of the event in lower case; "" if there is none. Azure DevOps writes it into the body."""
    name = headers.get(_EVENTS[platform], "") if platform in _EVENTS else ""
    return (name or _text(body, "eventType")).strip().lower()[:_LONGEST]


def id_of(platform: Platform, headers: Mapping[str, str], body: Part) -> str:
    """The id of a delivery; "" if there is none. CircleCI and Azure DevOps write it into the body."""
    found = next((value for name in _IDS.get(platform, ()) if (value := headers.get(name, "").strip())), "")
    if not found and platform in ("circleci", "azure_devops"):
        found = _text(body, "id")
    return found if len(found) <= _LONGEST and found.isprintable() else hashlib.sha256(found.encode()).hexdigest()


def _text(body: Part, name: str) -> str:
    value = body.value.get(name) if isinstance(body.value, dict) else None
    return value if isinstance(value, str) else ""
