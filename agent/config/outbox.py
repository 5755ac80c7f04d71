"""The settings of ``[outbox]``, checked while they are read."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from agent.config.settings import PostgresqlSettings
from agent.model import times
from agent.model.secrets import know

if TYPE_CHECKING:
    from agent.config import tables
    from agent.config.values import Values

_KEEP_DEPLOYMENTS = "400d"
# A smaller outbox could not hold the events of one day.
_LEAST_SIZE = 10_000_000
# Renewals are due every third of it. A longer one makes no sense for replacing an agent.
_LEAST_LEASE_MS, _LONGEST_LEASE_MS = 500, 300_000

_BEGINNINGS = ("postgresql://", "postgres://")
_URL_FORM = "is not like postgresql://USER@HOST:5432/DATABASE"
_ELSEWHERE = "the configuration does not contain the password: write it to a file and set password_file"
# Of a host; an IPv6 address is in brackets.
_PORT = re.compile(r"^(?:\[.*\]|[^:]*):([^\]]+)$")


def max_size(check: Values, text: str | None) -> int:
    """The limit of the outbox in bytes; 0: none."""
    return check.size("outbox.max_size", text, _LEAST_SIZE) if text else 0


def lease(check: Values, text: str) -> int:
    """How long a lease is valid without a renewal (ms)."""
    lease_ms = check.duration("outbox.lease", text)
    if lease_ms and not _LEAST_LEASE_MS <= lease_ms <= _LONGEST_LEASE_MS:
        check.note("outbox.lease", f"{text!r} is not between 500ms and 5m")
    return lease_ms


def postgresql(check: Values, raw: tables.Outbox) -> PostgresqlSettings | None:
    """The database of ``[outbox] url``; None: the outbox is a file."""
    if raw.url is None:
        for name in ("password_file", "ca_file", "client_certificate", "client_key"):
            if getattr(raw, name) is not None:
                check.note(f"outbox.{name}", "is used only with url; set url or remove it")
        return None
    if (problem := wrong_url(raw.url, _ELSEWHERE)) is not None:
        know(raw.url)
        check.note("outbox.url", problem)
        return None
    found = check.secret("outbox.password_file", raw.password_file, "outbox-password")
    return PostgresqlSettings(raw.url, found, check.tls("outbox", raw))


def wrong_url(url: str, with_password: str) -> str | None:
    """What is wrong with a URL of PostgreSQL; None: nothing. ``with_password``: the text if it has a password.

    It can contain one at any place, so it is not quoted.
    """
    if "password=" in url.lower():
        return with_password
    try:
        address = urlsplit(url)
        if address.password is not None:
            return with_password
    except ValueError:
        return _URL_FORM
    # With an @ in the path, this is a password with a slash.
    if not url.startswith(_BEGINNINGS) or not address.path.strip("/") or "@" in address.path:
        return _URL_FORM
    hosts = address.netloc.rpartition("@")[2].split(",")
    ports = (found[1] for each in hosts if (found := _PORT.search(each)) is not None)
    if all(each.isdecimal() and 0 < int(each) < 65_536 for each in ports):
        return None
    return "a port must be a number from 1 to 65535"


def keep_deployments(check: Values, raw: tables.Outbox) -> int:
    """How long deployments are kept. The default is at least keep_delivered."""
    delivered = check.duration("outbox.keep_delivered", raw.keep_delivered)
    if raw.keep_deployments is None:
        return max(times.parse_duration(_KEEP_DEPLOYMENTS), delivered)
    deployments = check.duration("outbox.keep_deployments", raw.keep_deployments)
    if deployments < delivered:
        check.note("outbox.keep_deployments", "is shorter than keep_delivered")
    return deployments
