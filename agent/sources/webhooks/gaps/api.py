"""Requests to a platform's API, limited in number, size and time."""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

import httpx

from agent.config.connection import FAILURES, failure, no_answer_in_time, open_client, raw_body, route_to
from agent.config.credentials import TokenError
from agent.config.settings import USER_AGENT
from agent.config.webhooks import API_URLS
from agent.model.part import Part
from agent.model.secrets import redact
from agent.model.times import describe_duration, parse_http_date, parse_retry_after
from agent.model.unpack import PackedError, unpacked
from agent.sources.webhooks.gaps.errors import ApiError, GoneError, SpentError, WaitError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.config.settings import WebhookSettings
    from agent.model.times import Clock

# Limits of one request.
TIMEOUT_S = 30.0
BODY_LIMIT = 8 * 1024 * 1024
# One JSON value per this many bytes of ``BODY_LIMIT``: a decoded value takes about a hundred bytes of memory.
_BYTES_FOR_A_VALUE = 24
# Limits of one look at a project.
MOST_REQUESTS = 1_000
MOST_BYTES = 64 * 1024 * 1024
LONGEST_S = 600.0
# The wait after a rate limit without a usable time, and the longest one that is accepted.
WAIT_MS = 60_000
LONGEST_WAIT_MS = 3_600_000
# Characters of a foreign text that messages show.
_SHOWN = 200

# What follows the address of the server.
_PATHS = {"gitlab": "/api/v4", "circleci": "/api/v2"}


@dataclass
class Spent:
    """What one look has used."""

    until: float  # seconds of the monotonic clock
    requests: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Reply:
    """The JSON of an answer and its headers."""

    body: Part
    headers: Mapping[str, str]


class Api:
    """The API of one hook's platform. Use as ``async with``.

    Every request raises :class:`ApiError` and its subclasses.
    """

    def __init__(self, hook: WebhookSettings, clock: Clock) -> None:
        """Raises :class:`agent.config.file.ConfigError` if the environment names a proxy that cannot be used."""
        self.hook = hook
        path = _PATHS.get(hook.platform, "")
        self.url = (hook.api_url or API_URLS.get(hook.platform, "https://dev.azure.com")).rstrip("/").removesuffix(path)
        self.url += path
        self.requests = 0
        self._clock = clock
        self._route = route_to(self.url)
        self._client = open_client(hook.tls, self._route, at_once=2)
        self._spent = Spent(0.0)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    def begin(self) -> None:
        """Start a look with fresh limits."""
        self._spent = Spent(self._clock.monotonic() + LONGEST_S)

    async def get(self, path: str, query: Mapping[str, str | int] | None = None, *, base: str | None = None) -> Reply:
        """GET ``path``, which starts with a slash, below the API's URL or below ``base``."""
        self._take_one()
        shown = f"{path.partition('?')[0]} of {self.hook.platform}"
        try:
            url = httpx.URL((base or self.url) + path, params=dict(query or {}) or None)
            request = httpx.Request("GET", url, headers=self._headers())
        except (httpx.InvalidURL, TokenError) as error:
            raise ApiError(f"cannot ask for {shown}: {error}") from None
        try:
            async with asyncio.timeout(TIMEOUT_S):
                response = await self._client.send(request, stream=True)
                try:
                    body = await raw_body(response, BODY_LIMIT + 1)
                finally:
                    await response.aclose()
        except TimeoutError:
            raise ApiError(f"{shown}: {no_answer_in_time(TIMEOUT_S).reason}") from None
        except FAILURES as error:
            failed = failure(error, TIMEOUT_S, self._route, "[[webhook]]")
            reason = "the proxy requires credentials" if failed.refused_by_proxy else failed.reason
            raise ApiError(f"{shown}: {reason}") from None
        self._spent.bytes += len(body)
        self._raise_for(response, body, shown)
        return Reply(Part(_decoded(body, response, shown), ""), response.headers)

    def _headers(self) -> dict[str, str]:
        token = "" if self.hook.api_token is None else self.hook.api_token.reveal()
        headers = {"User-Agent": USER_AGENT, "Accept": "application/json", "Accept-Encoding": "gzip"}
        match self.hook.platform:
            case "github":
                github = {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"}
                return headers | github | {"Authorization": f"Bearer {token}"}
            case "gitlab":
                return headers | {"PRIVATE-TOKEN": token}
            case "circleci":
                return headers | {"Circle-Token": token}
            case _:  # a personal access token is a password without a user
                return headers | {"Authorization": "Basic " + base64.b64encode(f":{token}".encode()).decode()}

    def _take_one(self) -> None:
        spent = self._spent
        if spent.requests >= MOST_REQUESTS:
            raise SpentError(f"this look made {MOST_REQUESTS} requests; the next one continues")
        if spent.bytes >= MOST_BYTES:
            raise SpentError(f"this look read {MOST_BYTES >> 20} MB; the next one continues")
        if self._clock.monotonic() >= spent.until:
            raise SpentError(f"this look took {describe_duration(round(LONGEST_S * 1000))}; the next one continues")
        spent.requests += 1
        self.requests += 1

    # ---- errors

    def _raise_for(self, response: httpx.Response, body: bytes, shown: str) -> None:
        status = response.status_code
        if status == 200:
            return
        where = f"{shown} returned HTTP {status}"
        if status in (403, 429, 503) and (wait_ms := self._wait_ms(response, body)) is not None:
            wait_ms = min(max(wait_ms, 1_000), LONGEST_WAIT_MS)
            raise WaitError(f"{where}: too many requests; the next one in {describe_duration(wait_ms)}", wait_ms)
        match status:
            case 401:
                raise ApiError(f"{where}: the token is wrong or has expired; check api_token_file of [[webhook]]")
            case 203 | 302 if self.hook.platform == "azure_devops":  # the login page
                raise ApiError(f"{where}: the token is wrong or has expired; check api_token_file of [[webhook]]")
            case 403:
                raise ApiError(f"{where}: the token lacks a permission; see docs/webhooks.md, Gap repair")
            case 404 | 410:
                raise GoneError(f"{where}: it does not exist, or the token may not see it; check repair of [[webhook]]")
            case _ if 300 <= status < 400:
                to = redact(response.headers.get("location", ""))[:_SHOWN]
                raise ApiError(f"{where}: it redirects to {to}; if the project was renamed, correct repair")
            case _:
                raise ApiError(f"{where}: {redact(body[: 4 * _SHOWN].decode('utf-8', 'replace'))[:_SHOWN]!r}")

    def _wait_ms(self, response: httpx.Response, body: bytes) -> int | None:
        """How long the platform asks to wait; None: this is no rate limit.

        GitHub answers 403 or 429: with Retry-After, or with no requests left and the time at which there are more.
        """
        headers, now_ms = response.headers, self._clock.now_ms()
        asked = parse_retry_after(headers.get("retry-after"), now_ms)
        if asked is not None:
            return asked
        if headers.get("x-ratelimit-remaining", headers.get("ratelimit-remaining")) == "0":
            reset = headers.get("x-ratelimit-reset", headers.get("ratelimit-reset", ""))
            if reset.isascii() and reset.isdigit():
                there_ms = parse_http_date(headers.get("date")) or now_ms
                return int(reset[:12]) * 1000 - there_ms
            return WAIT_MS
        if response.status_code == 429 or b"rate limit" in body[:4096]:
            return WAIT_MS
        return None


def _decoded(body: bytes, response: httpx.Response, shown: str) -> object:
    try:
        content = unpacked(body, response.headers.get("content-encoding", ""), BODY_LIMIT)
    except PackedError as error:
        raise ApiError(f"{shown} {error}") from None
    if len(content) > BODY_LIMIT:
        raise ApiError(f"{shown} returned more than {BODY_LIMIT >> 20} MB")
    values = content.count(b",") + content.count(b"[") + content.count(b"{")
    if values * _BYTES_FOR_A_VALUE > BODY_LIMIT:
        raise ApiError(f"{shown} returned {values} JSON values, more than {BODY_LIMIT // _BYTES_FOR_A_VALUE}")
    try:
        decoded: object = json.loads(bytes(content).decode("utf-8", "replace"))
    except RecursionError:
        raise ApiError(f"the JSON of {shown} is nested too deeply") from None
    except ValueError as error:
        kind = redact(response.headers.get("content-type", "no type"))[:_SHOWN]
        raise ApiError(f"{shown} did not return JSON but {kind}: {error}; check api_url of [[webhook]]") from None
    if decoded is None:  # an empty list or a missing member would look the same
        raise ApiError(f"{shown} returned null")
    return decoded


def quoted(text: str) -> str:
    """A name as one segment of a path. Raises :class:`ApiError` for one that means another path."""
    if text in ("", ".", ".."):
        raise ApiError(f"{text!r} cannot be part of an address; check repair of [[webhook]]")
    return quote(text, safe="")


def quoted_path(text: str) -> str:
    """A name with slashes as several segments of a path."""
    return "/".join(quoted(each) for each in text.split("/"))
