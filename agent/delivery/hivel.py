"""Hivel's Deployment Events API v2 over HTTP (Hivel's page, sections 1 to 3)."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Self

import httpx

from agent.config.connection import FAILURES, open_client, raw_body, route_to
from agent.delivery.answers import BODY_LIMIT, LOCATION_LIMIT, Answer, Outcome, classify
from agent.delivery.connection import failure, no_answer_in_time, wants_credentials
from agent.model import event as events
from agent.model.deployment import event_of
from agent.model.secrets import redact
from agent.model.unpack import PackedError, unpacked

if TYPE_CHECKING:
    from agent.config.credentials import Token
    from agent.config.settings import DeliverySettings, HivelSettings
    from agent.model.times import Clock
    from agent.outbox.values import Claimed

# A truncated body may end in the middle of a token. This many bytes at its end are dropped; no token is longer.
_CUT = 8 * 1024


class HivelClient:
    """Sends deployments as events. Failures of network and server are outcomes, not exceptions."""

    def __init__(self, settings: HivelSettings, delivery: DeliverySettings, clock: Clock) -> None:
        """Raises :class:`agent.config.file.ConfigError` if the environment names a proxy that cannot be used."""
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
        self._route = route_to(settings.deployment_url)
        self._client = open_client(settings.tls, self._route, at_once=delivery.concurrency)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    def reload_token(self) -> bool:
        """Read the token file again; True if the token has changed."""
        return self._token.reload()

    async def send(self, claimed: Claimed) -> Outcome:
        """Make one attempt to deliver.

        Raises :class:`agent.model.event.InvalidEventError`: see ``Content.problem``.
        """
        event = event_of(claimed.deployment_id, claimed.content)
        body = events.wire(events.encode(event).decode(), self._spelling)
        answer = await self.post(body)
        return classify(answer, claimed.deployment_id, self._clock.now_ms())

    async def post(self, body: bytes) -> Answer:
        """POST one event. The answer is logged and stored, so secrets in it are redacted."""
        return _without_secrets(await self._posted(body))

    async def _posted(self, body: bytes) -> Answer:
        token = self._token.reveal()
        # Built here, because AsyncClient.post would merge URL, headers, cookies and query for each request, and these
        # never change.
        request = httpx.Request("POST", self._url, headers=[*self._headers, ("X-API-Token", token)], content=body)
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await self._client.send(request, stream=True)
                try:
                    return await _answer(response) if response.status_code != 407 else wants_credentials(self._route)
                finally:
                    await response.aclose()
        except TimeoutError:
            return no_answer_in_time(self._timeout_s)
        except FAILURES as error:
            return failure(error, self._timeout_s, self._route)


async def _answer(response: httpx.Response) -> Answer:
    body = await raw_body(response, BODY_LIMIT)
    try:
        content = unpacked(body, response.headers.get("content-encoding", ""), BODY_LIMIT)
        text = bytes(content[:BODY_LIMIT]).decode("utf-8", "replace")
    except PackedError as error:
        text = f"the answer {error}"
    return Answer(
        status=response.status_code,
        body=text,
        content_type=response.headers.get("content-type", ""),
        retry_after=response.headers.get("retry-after"),
        location=response.headers.get("location"),
    )


def _without_secrets(answer: Answer) -> Answer:
    body = redact(answer.body)
    return replace(
        answer,
        body=body[:-_CUT] if len(answer.body) >= BODY_LIMIT else body,
        content_type=redact(answer.content_type),
        location=None if answer.location is None else redact(answer.location)[:LOCATION_LIMIT],
    )
