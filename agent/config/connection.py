"""Opening HTTP clients with the configured TLS and proxy: httpx on top of aiohttp, which is twice as fast as httpcore.

Errors are described from aiohttp's own exceptions, because httpx-aiohttp reports a broken connection as a time-out.
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from agent.config.file import ConfigError
from agent.config.proxies import Proxies, ProxyError
from agent.model import tls

if TYPE_CHECKING:
    from agent.config.proxies import Route
    from agent.config.settings import TlsSettings

# Idle connections are closed after this many seconds.
_IDLE_S = 30
# An answer with a longer header line is an error.
_HEAD_LINE_BYTES = 8_190
# Exceptions that a request raises for reasons of the network or the server.
FAILURES = (httpx.HTTPError, aiohttp.ClientError, OSError)


@dataclass(frozen=True)
class Failure:
    """Why there is no answer, for people. ``refused_by_proxy``: the proxy requires credentials."""

    reason: str
    timed_out: bool = False
    untrusted_certificate: bool = False
    refused_by_proxy: bool = False


def route_to(url: str) -> Route:
    """The route to this URL. Raises :class:`ConfigError` if the environment names a proxy that cannot be used."""
    try:
        return Proxies().route(url)
    except ProxyError as error:
        raise ConfigError(str(error)) from error


def open_client(trust: TlsSettings, route: Route, *, at_once: int) -> httpx.AsyncClient:
    """A client that opens connections on demand, at most ``at_once``, and keeps them alive.

    It has no time-outs of its own: the caller sets a deadline for the whole exchange.
    """
    context = trust.context()
    proxy = _proxy(route, context)

    def session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=at_once, ssl=context, keepalive_timeout=_IDLE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,  # ``Route`` decides about proxies, and ~/.netrc must not be used
            max_line_size=_HEAD_LINE_BYTES,
            max_field_size=_HEAD_LINE_BYTES,
        )

    transport = AiohttpTransport(client=session, proxy=proxy)
    timeout = httpx.Timeout(None)  # the caller has a deadline
    return httpx.AsyncClient(transport=transport, timeout=timeout, follow_redirects=False, trust_env=False)


async def raw_body(response: httpx.Response, most: int) -> bytes:
    """The first ``most`` bytes of the body, as they were received.

    httpx would decompress without limit, and several layers if the header says so.
    """
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) >= most:
            break
    return bytes(body[:most])


def _proxy(route: Route, context: ssl.SSLContext) -> httpx.Proxy | None:
    proxy = route.proxy
    if proxy is None:
        return None
    headers = {"Proxy-Authorization": proxy.authorization} if proxy.authorization else None
    return httpx.Proxy(proxy.url, headers=headers, ssl_context=context if proxy.url.startswith("https:") else None)


def failure(error: Exception, timeout_s: float, route: Route, table: str | None) -> Failure:
    """Describe one of :data:`FAILURES`.

    ``table``: the configuration table with the TLS settings of this server, None if there are none.
    """
    cause = error.__cause__ if isinstance(error, httpx.HTTPError) and error.__cause__ is not None else error
    match cause:
        case TimeoutError():
            return no_answer_in_time(timeout_s)
        case aiohttp.ClientHttpProxyError(status=status, message=message):
            words = f"{status} {message}".strip()
            return _no_way_through(words, route) if status != 407 else Failure(words, refused_by_proxy=True)
        case aiohttp.ClientProxyConnectionError():
            return _no_way_through(_system_error(cause), route)
        case aiohttp.ClientConnectorError():
            untrusted = isinstance(cause, ssl.SSLCertVerificationError) or isinstance(
                cause.os_error, ssl.SSLCertVerificationError
            )
            advice = None if table is None else tls.advice(cause, table)
            words = _system_error(cause) + (f"; {advice}" if advice else "")
            return Failure(f"cannot connect: {words}", untrusted_certificate=untrusted)
        case _:
            return Failure(f"the connection was lost: {_words(cause)}")


def no_answer_in_time(timeout_s: float) -> Failure:
    """The deadline for the whole exchange has passed."""
    return Failure(f"no answer within {timeout_s:g} s", timed_out=True)


def _no_way_through(words: str, route: Route) -> Failure:
    named = "" if route.proxy is None else f" ({route.proxy.url}, from {route.reason})"
    return Failure(f"no connection through the proxy: {words}{named}")


def _system_error(error: aiohttp.ClientConnectorError) -> str:
    """The system's error text, without the address that aiohttp adds."""
    cause = error.os_error
    if cause.errno is not None and (cause.strerror or "").startswith("Connect call failed"):
        return f"{os.strerror(cause.errno)}{(cause.strerror or '').removeprefix('Connect call failed')}"
    return _words(cause)


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
