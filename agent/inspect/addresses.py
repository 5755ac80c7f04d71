"""Recognizing addresses that are not the base address of Jenkins or Hivel. No request is sent."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

if TYPE_CHECKING:
    from agent.config.settings import JenkinsSettings

# First path segments of Jenkins' pages, below the base address.
_PAGES_OF_JENKINS = (
    "api", "asynchPeople", "blue", "builds", "cli", "computer", "configure", "credentials", "job", "log", "login",
    "manage", "me", "people", "pluginManager", "user", "view", "whoAmI",
)  # fmt: skip
_PAGES_OF_HIVEL = ("api",)
# RFC 2606: names that are reserved for documentation.
_PLACEHOLDER = re.compile(r"(?i)(?:^|[^a-z0-9-])((?:[a-z0-9-]+\.)*example(?:\.(?:com|org|net))?)(?![a-z0-9.-])")


def base_of_jenkins(url: str) -> str | None:
    """The base address, if ``url`` is the address of a page of Jenkins, such as a job, the API or the login."""
    return _before(url, _PAGES_OF_JENKINS)


def base_of_hivel(url: str) -> str | None:
    """The base address, if ``url`` is one of Hivel's endpoints."""
    return _before(url, _PAGES_OF_HIVEL)


def _before(url: str, pages: tuple[str, ...]) -> str | None:
    parts = urlsplit(url)
    segments = parts.path.split("/")
    place = next((place for place, segment in enumerate(segments) if segment in pages), None)
    if place is None:
        return None
    return urlunsplit((parts.scheme, parts.netloc, "/".join(segments[:place]), "", "")).rstrip("/")


def placeholder_in(text: str) -> str | None:
    """The placeholder host name in the text, such as ``jenkins.example.com``, or None."""
    found = _PLACEHOLDER.search(text)
    return None if found is None or "." not in found[1] else found[1]


def named_by_address(controller: JenkinsSettings) -> bool:
    """Whether the controller is named after its host, and the host is an IP address or ``localhost``."""
    parts = urlsplit(controller.url)
    if controller.name != parts.netloc or parts.hostname is None:
        return False
    if parts.hostname == "localhost":
        return True
    try:
        ipaddress.ip_address(parts.hostname)
    except ValueError:
        return False
    return True
