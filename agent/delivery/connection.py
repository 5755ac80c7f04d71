"""The connections to Hivel: httpx's interface, with aiohttp below it, which takes half of the time of httpcore.

What goes wrong is told by aiohttp's own errors: httpx-aiohttp calls a connection that broke a time-out.
"""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from agent.config.file import ConfigError
from agent.config.proxies import Proxies, ProxyError
from agent.delivery.answers import Answer
from agent.model import tls

if TYPE_CHECKING:
    from agent.config.proxies import Route
    from agent.config.settings import HivelSettings

# Connections that nobody used for so long are closed.
_IDLE_S = 30
# A line of an answer's head that is longer ends the answer.
_HEAD_LINE_BYTES = 8_190
# What a request may raise that is about the network or the server.
FAILURES = (httpx.HTTPError, aiohttp.ClientError, OSError)


def route_to(url: str) -> Route:
    """How to reach this URL. Raises :class:`ConfigError` when the environment names a proxy that cannot be used."""
    try:
        return Proxies().route(url)
    except ProxyError as error:
        raise ConfigError(str(error)) from error


def open_client(settings: HivelSettings, route: Route, *, at_once: int) -> httpx.AsyncClient:
    """Connections are opened when they are needed, ``at_once`` at most, and kept alive.

    The client has no time-outs of its own: the caller sets a deadline for the whole exchange.
    """
    context = settings.tls.context()
    proxy = _proxy(route, context)

    def session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=at_once, ssl=context, keepalive_timeout=_IDLE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,  # proxies are looked up in the one place that knows them, and ~/.netrc is not asked
            max_line_size=_HEAD_LINE_BYTES,
            max_field_size=_HEAD_LINE_BYTES,
        )

    transport = AiohttpTransport(client=session, proxy=proxy)
    timeout = httpx.Timeout(None)  # see above
    return httpx.AsyncClient(transport=transport, timeout=timeout, follow_redirects=False, trust_env=False)


def _proxy(route: Route, context: ssl.SSLContext) -> httpx.Proxy | None:
    proxy = route.proxy
    if proxy is None:
        return None
    headers = {"Proxy-Authorization": proxy.authorization} if proxy.authorization else None
    return httpx.Proxy(proxy.url, headers=headers, ssl_context=context if proxy.url.startswith("https:") else None)


def failure(error: Exception, timeout_s: float, route: Route) -> Answer:
    """What one of :data:`FAILURES` says instead of an answer."""
    cause = error.__cause__ if isinstance(error, httpx.HTTPError) and error.__cause__ is not None else error
    match cause:
        case TimeoutError():
            return no_answer_in_time(timeout_s)
        case aiohttp.ClientHttpProxyError(status=status, message=message):
            words = f"{status} {message}".strip()
            return wants_credentials(route) if status == 407 else _no_way_through(words, route)
        case aiohttp.ClientProxyConnectionError():
            return _no_way_through(_system_error(cause), route)
        case aiohttp.ClientConnectorError():
            untrusted = isinstance(cause, ssl.SSLCertVerificationError) or isinstance(
                cause.os_error, ssl.SSLCertVerificationError
            )
            advice = tls.advice(cause, "[hivel]")
            words = _system_error(cause) + (f"; {advice}" if advice else "")
            return Answer(None, f"cannot connect: {words}", untrusted_certificate=untrusted)
        case _:
            return Answer(None, f"connection broke: {_words(cause)}")


def no_answer_in_time(timeout_s: float) -> Answer:
    """The deadline of the whole exchange has passed."""
    return Answer(None, f"no answer within {timeout_s:g} s", timed_out=True)


def wants_credentials(route: Route) -> Answer:
    """A 407 of the proxy, or of one that the environment does not name."""
    if route.proxy is None:
        return Answer(407, "a proxy in front of Hivel")
    return Answer(407, f"the proxy {route.proxy.url} of {route.reason}")


def _no_way_through(words: str, route: Route) -> Answer:
    named = "" if route.proxy is None else f" ({route.proxy.url}, from {route.reason})"
    return Answer(None, f"the proxy opens no connection: {words}{named}")


def _system_error(error: aiohttp.ClientConnectorError) -> str:
    """What the system said, where aiohttp adds the address that is known anyway."""
    cause = error.os_error
    if cause.errno is not None and (cause.strerror or "").startswith("Connect call failed"):
        return f"{os.strerror(cause.errno)}{(cause.strerror or '').removeprefix('Connect call failed')}"
    return _words(cause)


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
