"""The connections to Hivel: httpx's interface, with aiohttp below it, which takes half of the time of httpcore.

What goes wrong is told by aiohttp's own errors: httpx-aiohttp calls a connection that broke a time-out.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from agent.config.file import ConfigError
from agent.config.proxies import Proxies, ProxyError
from agent.delivery.answers import Answer

if TYPE_CHECKING:
    from agent.config.settings import HivelSettings

# Connections that nobody used for so long are closed.
_IDLE_S = 30
# A line of an answer's head that is longer ends the answer.
_HEAD_LINE_BYTES = 8_190
# What a request may raise that is about the network or the server.
FAILURES = (httpx.HTTPError, aiohttp.ClientError, OSError)


def open_client(settings: HivelSettings, *, at_once: int) -> httpx.AsyncClient:
    """Connections are opened when they are needed, ``at_once`` at most, and kept alive.

    It has no time-outs of its own: who asks sets a deadline for the whole exchange. Raises :class:`ConfigError` when
    the environment names a proxy that cannot be used.
    """
    context = settings.tls.context()
    proxy = _proxy(settings.deployment_url, context)

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


def _proxy(url: str, context: ssl.SSLContext) -> httpx.Proxy | None:
    try:
        proxy = Proxies().route(url).proxy
    except ProxyError as error:
        raise ConfigError(str(error)) from error
    if proxy is None:
        return None
    headers = {"Proxy-Authorization": proxy.authorization} if proxy.authorization else None
    return httpx.Proxy(proxy.url, headers=headers, ssl_context=context if proxy.url.startswith("https:") else None)


def failure(error: Exception, timeout_s: float) -> Answer:
    """What one of :data:`FAILURES` says instead of an answer."""
    cause = error.__cause__ if isinstance(error, httpx.HTTPError) and error.__cause__ is not None else error
    match cause:
        case TimeoutError():
            return no_answer_in_time(timeout_s)
        case aiohttp.ClientHttpProxyError(status=status, message=message):
            words = f"{status} {message}".strip()
            return Answer(407, words) if status == 407 else _no_way_through(words)
        case aiohttp.ClientProxyConnectionError():
            return _no_way_through(_system_error(cause))
        case aiohttp.ClientConnectorError():
            untrusted = isinstance(cause, ssl.SSLCertVerificationError) or isinstance(
                cause.os_error, ssl.SSLCertVerificationError
            )
            return Answer(None, f"cannot connect: {_system_error(cause)}", untrusted_certificate=untrusted)
        case _:
            return Answer(None, f"connection broke: {_words(cause)}")


def no_answer_in_time(timeout_s: float) -> Answer:
    """The deadline of the whole exchange has passed."""
    return Answer(None, f"no answer within {timeout_s:g} s", timed_out=True)


def _no_way_through(words: str) -> Answer:
    return Answer(None, f"the proxy opens no connection: {words}")


def _system_error(error: aiohttp.ClientConnectorError) -> str:
    """What the system said, where aiohttp adds the address that is known anyway."""
    return _words(error.os_error)


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
