"""What a failed connection to Hivel means for a delivery."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.config import connection
from agent.delivery.answers import Answer

if TYPE_CHECKING:
    from agent.config.proxies import Route


def failure(error: Exception, timeout_s: float, route: Route, table: str | None = "[hivel]") -> Answer:
    """Describe one of :data:`agent.config.connection.FAILURES` as an :class:`Answer`, without status.

    ``table``: the configuration table with the TLS settings of this server, None if there are none.
    """
    return _answer(connection.failure(error, timeout_s, route, table), route)


def no_answer_in_time(timeout_s: float) -> Answer:
    """The deadline for the whole exchange has passed."""
    return Answer(None, connection.no_answer_in_time(timeout_s).reason, timed_out=True)


def wants_credentials(route: Route) -> Answer:
    """A 407 from the configured proxy, or from a proxy that the environment does not name."""
    if route.proxy is None:
        return Answer(407, "a proxy in front of Hivel")
    return Answer(407, f"the proxy {route.proxy.url} from {route.reason}")


def _answer(failed: connection.Failure, route: Route) -> Answer:
    if failed.refused_by_proxy:
        return wants_credentials(route)
    return Answer(None, failed.reason, untrusted_certificate=failed.untrusted_certificate, timed_out=failed.timed_out)
