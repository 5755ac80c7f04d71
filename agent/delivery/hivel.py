"""Hivel's Deployment Events API v2 over HTTP (Hivel's page, sections 1 to 3)."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Self

import httpx

from agent.config.file import ConfigError
from agent.config.proxies import Proxies, ProxyError
from agent.delivery.answers import BODY_LIMIT, Answer, Outcome, classify
from agent.model import event as events
from agent.model.deployment import event_of

if TYPE_CHECKING:
    from agent.config.credentials import Token
    from agent.config.settings import DeliverySettings, HivelSettings
    from agent.model.times import Clock
    from agent.outbox.values import Claimed

# httpcore's pool does work for every connection it holds, at every request: small pools, and more of them.
CONNECTIONS_PER_CLIENT = 8


class HivelClient:
    """Sends deployments as events; nothing is raised for what network or server do."""

    def __init__(self, settings: HivelSettings, delivery: DeliverySettings, clock: Clock) -> None:
        """Raises :class:`agent.config.file.ConfigError` when the environment names a proxy that cannot be used."""
        self._url = httpx.URL(settings.deployment_url)
        self._headers = [
            ("User-Agent", settings.user_agent),
            ("Accept", "application/json"),
            ("Accept-Encoding", "identity"),
            ("Content-Type", "application/json"),
        ]
        self._token: Token = settings.token
        self._timeout_s = delivery.timeout_ms / 1000
        self._spelling = delivery.canceled_spelling
        self._clock = clock
        context = settings.tls.context()
        proxy = _proxy(settings.deployment_url, context)
        limits = httpx.Limits(
            max_connections=CONNECTIONS_PER_CLIENT,
            max_keepalive_connections=CONNECTIONS_PER_CLIENT,
            keepalive_expiry=30,
        )
        self._clients = [
            httpx.AsyncClient(
                verify=context,
                limits=limits,
                timeout=httpx.Timeout(self._timeout_s, pool=None),
                follow_redirects=False,
                proxy=proxy,
                trust_env=False,  # proxies are looked up in the one place that knows them, and ~/.netrc is not asked
            )
            for _ in range(-(-delivery.concurrency // CONNECTIONS_PER_CLIENT))
        ]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self._clients:
            await client.aclose()

    def reload_token(self) -> bool:
        """Look whether the token's file holds another token now; True when it does."""
        return self._token.reload()

    async def send(self, claimed: Claimed, *, lane: int = 0) -> Outcome:
        """Try once to deliver. ``lane`` (0 … concurrency - 1) is the sender's number: no two share a connection.

        Raises :class:`agent.model.event.InvalidEventError`: see ``Content.problem``.
        """
        event = event_of(claimed.deployment_id, claimed.content)
        body = events.wire(events.encode(event).decode(), self._spelling)
        answer = await self.post(body, lane=lane)
        return classify(answer, claimed.deployment_id, self._clock.now_ms())

    async def post(self, body: bytes, *, lane: int = 0) -> Answer:
        """POST one event."""
        client = self._clients[lane % len(self._clients)]
        token = self._token.reveal()
        # What AsyncClient.post does anew for each request (URL, headers, cookies, query) is the same for all of these.
        request = httpx.Request("POST", self._url, headers=[*self._headers, ("X-API-Token", token)], content=body)
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await client.send(request, stream=True)
                try:
                    return await _answer(response, token)
                finally:
                    await response.aclose()
        except TimeoutError:
            return Answer(None, f"no answer within {self._timeout_s:g} s", timed_out=True)
        except httpx.TimeoutException as error:
            return Answer(None, f"no answer within {self._timeout_s:g} s ({type(error).__name__})", timed_out=True)
        except httpx.ProxyError as error:
            return _proxy_refuses(str(error))
        except httpx.HTTPError as error:
            return Answer(None, _network_error(error), untrusted_certificate=_is_certificate_error(error))


def _proxy(url: str, context: ssl.SSLContext) -> httpx.Proxy | None:
    try:
        proxy = Proxies().route(url).proxy
    except ProxyError as error:
        raise ConfigError(str(error)) from error
    if proxy is None:
        return None
    headers = {"Proxy-Authorization": proxy.authorization} if proxy.authorization else None
    return httpx.Proxy(proxy.url, headers=headers, ssl_context=context if proxy.url.startswith("https:") else None)


async def _answer(response: httpx.Response, token: str) -> Answer:
    """Answers are logged and stored: one that repeats the token does so without it."""
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) >= BODY_LIMIT:
            break
    location = response.headers.get("location")
    return Answer(
        status=response.status_code,
        body=bytes(body[:BODY_LIMIT]).decode("utf-8", "replace").replace(token, "***"),
        content_type=response.headers.get("content-type", ""),
        retry_after=response.headers.get("retry-after"),
        location=None if location is None else location.replace(token, "***"),
    )


def _proxy_refuses(words: str) -> Answer:
    """``407 Proxy Authentication Required`` or the like is what a proxy answers instead of opening a tunnel."""
    if words.startswith("407"):
        return Answer(407, words)
    return Answer(None, f"the proxy opens no connection: {words}")


def _network_error(error: httpx.HTTPError) -> str:
    what = "cannot connect" if isinstance(error, httpx.ConnectError) else "connection broke"
    return f"{what}: {str(error) or type(error).__name__}"


def _is_certificate_error(error: BaseException) -> bool:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return True
        cause = cause.__cause__ or cause.__context__
    return False
