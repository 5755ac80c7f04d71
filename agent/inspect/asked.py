"""What the daemon asked of each Jenkins in the last hour: the daemon tells it, for nothing of it is stored."""

from __future__ import annotations

import http.client
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.config.settings import Address
    from agent.sources.jenkins.traffic import Kind, Tally

# The page, below the address of [monitoring] listen.
PAGE = "/jenkins"
TIMEOUT_S = 3.0
_LONGEST_ANSWER = 1024 * 1024


class KindAsked(msgspec.Struct, frozen=True):
    """Questions of one kind: jobs, builds, build, stages, computer, whoami. ``bytes`` came in, headers included."""

    kind: str
    requests: int
    bytes: int
    average_ms: int
    slowest_ms: int


class Asked(msgspec.Struct, frozen=True):
    """One controller: how often it is polled now, how often by the setting, and what it was asked in the last hour."""

    controller: str
    interval_ms: int
    setting_ms: int
    last_hour: list[KindAsked]


def asked(controller: str, *, interval_s: float, setting_s: float, last_hour: Mapping[Kind, Tally]) -> Asked:
    """For the page."""
    kinds = [
        KindAsked(kind, each.requests, each.bytes, _ms(each.seconds / each.requests), _ms(each.slowest_s))
        for kind, each in last_hour.items()
    ]
    return Asked(controller, _ms(interval_s), _ms(setting_s), kinds)


def ask_daemon(address: Address) -> list[Asked]:
    """What the daemon that listens there says; nothing if it does not, or is none of this version.

    No proxy is asked: this is mostly the same machine.
    """
    connection = http.client.HTTPConnection(address.host, address.port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", PAGE)
        answer = connection.getresponse()
        body = answer.read(_LONGEST_ANSWER)
        return msgspec.json.decode(body, type=list[Asked]) if answer.status == 200 else []
    except (OSError, http.client.HTTPException, msgspec.MsgspecError, UnicodeDecodeError):
        return []
    finally:
        connection.close()


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
