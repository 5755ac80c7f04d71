"""The requests that the daemon sent to each Jenkins in the last hour. They are not stored: the daemon reports them."""

from __future__ import annotations

import http.client
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.config.settings import Address
    from agent.sources.jenkins.traffic import Kind, Tally

# The path of the page, on the address of [monitoring] listen.
PAGE = "/jenkins"
TIMEOUT_S = 3.0
_LONGEST_ANSWER = 1024 * 1024


class KindAsked(msgspec.Struct, frozen=True):
    """Requests of one kind: jobs, builds, build, stages, computer, whoami. ``bytes``: received, including headers."""

    kind: str
    requests: int
    bytes: int
    average_ms: int
    slowest_ms: int


class Asked(msgspec.Struct, frozen=True):
    """One controller: the current poll interval, the configured one, and the requests of the last hour."""

    controller: str
    interval_ms: int
    setting_ms: int
    last_hour: list[KindAsked]

    @property
    def requests(self) -> int:
        """All kinds together."""
        return sum(each.requests for each in self.last_hour)


def asked(controller: str, *, interval_s: float, setting_s: float, last_hour: Mapping[Kind, Tally]) -> Asked:
    """The entry of one controller on the page."""
    kinds = [
        KindAsked(kind, each.requests, each.bytes, _ms(each.seconds / each.requests), _ms(each.slowest_s))
        for kind, each in last_hour.items()
    ]
    return Asked(controller, _ms(interval_s), _ms(setting_s), kinds)


def ask_daemon(address: Address) -> list[Asked]:
    """What the daemon at this address reports. Empty if none answers, or if it has another version.

    The request does not use a proxy: the daemon usually runs on the same machine.
    """
    connection = http.client.HTTPConnection(address.host, address.port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", PAGE)
        with connection.getresponse() as answer:
            body = answer.read(_LONGEST_ANSWER)
            return msgspec.json.decode(body, type=list[Asked]) if answer.status == 200 else []
    except (OSError, http.client.HTTPException, msgspec.MsgspecError, UnicodeDecodeError):
        return []
    finally:
        connection.close()


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
