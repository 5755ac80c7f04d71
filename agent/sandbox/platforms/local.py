"""A platform on this machine: serves the API of one kind of platform for the deployments that tests put there."""

from __future__ import annotations

import base64
import itertools
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from agent.sandbox.hivel.answers import json_answer
from agent.sandbox.jenkins.local import wall_clock_ms
from agent.sandbox.platforms import azure, circleci, github, gitlab
from agent.sandbox.platforms.model import Deployed, Page
from agent.sandbox.platforms.sending import send

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import ModuleType

    import httpx
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

    from agent.config.settings import Platform

# Each module has ``answer`` and ``webhooks``.
_KINDS: dict[str, ModuleType] = {"github": github, "gitlab": gitlab, "circleci": circleci, "azure_devops": azure}
KINDS = tuple(_KINDS)
_DURATION_MS = 60_000


@dataclass(frozen=True)
class Asked:
    """One request, and the status of its answer."""

    path: str
    query: Mapping[str, str]
    status: int


class LocalPlatform:
    """The API of a platform. Methods can be called from any thread.

    ``requests``: every request so far. ``hook(path, query)`` can answer in place of the platform, or change its
    deployments before it answers; None removes it.
    """

    def __init__(
        self,
        kind: Platform,
        *,
        token: str = "sandbox-token",  # noqa: S107 - guards nothing
        secret: str = "sandbox-secret",  # noqa: S107 - guards nothing
        now_ms: Callable[[], int] = wall_clock_ms,
    ) -> None:
        self.kind = kind
        self.secret = secret
        self.token = token
        self.requests: list[Asked] = []
        self.hook: Callable[[str, Mapping[str, str]], Response | None] | None = None
        self._now_ms = now_ms
        self._module = _KINDS[kind]
        self._deployed: dict[int, Deployed] = {}
        self._numbers = itertools.count(1_001)
        self._left: int | None = None
        self._reset_at = 0
        self._lock = threading.RLock()

    # ---- deployments

    def deploy(self, project: str = "acme/shop", **fields: Any) -> Deployed:
        """Add a deployment that ends now after a minute, or with other ``fields`` of :class:`Deployed`."""
        with self._lock:
            ended_at = fields.pop("ended_at", self._now_ms())
            started_at = fields.pop("started_at", (self._now_ms() if ended_at is None else ended_at) - _DURATION_MS)
            number = next(self._numbers)
            deployed = Deployed(number, project, fields.pop("created_at", started_at), started_at, ended_at, **fields)
            self._deployed[number] = deployed
            return deployed

    def change(self, number: int, **fields: Any) -> Deployed:
        """Change a deployment, for example its end."""
        with self._lock:
            self._deployed[number] = replace(self._deployed[number], **fields)
            return self._deployed[number]

    def delete(self, number: int) -> None:
        """Delete a deployment."""
        with self._lock:
            del self._deployed[number]

    def deployed(self) -> list[Deployed]:
        """All deployments, in the order in which they were added."""
        with self._lock:
            return list(self._deployed.values())

    def limit(self, requests: int | None, *, seconds: int = 3_600) -> None:
        """Answer this many more requests within these seconds, and refuse others; None: no limit."""
        with self._lock:
            self._left, self._reset_at = requests, self._now_ms() + seconds * 1000

    def send(self, url: str, deployed: Deployed) -> list[httpx.Response]:
        """Send the webhooks of a deployment to an agent, oldest first. Raises :class:`httpx.HTTPError`."""
        return [send(self.kind, url, self.secret, webhook) for webhook in self._module.webhooks(deployed)]

    # ---- serving

    @property
    def app(self) -> ASGIApp:
        """The application."""
        return self._serve

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        path, query = scope["raw_path"].decode("latin-1"), dict(parse_qsl(scope["query_string"].decode("latin-1")))
        broken = self.hook(path, query) if self.hook is not None else None
        with self._lock:
            response = broken or self._answer(path, query, scope["headers"])
            self.requests.append(Asked(path, query, getattr(response, "status_code", 0)))
        await response(scope, receive, send)

    def _answer(self, path: str, query: Mapping[str, str], headers: Sequence[tuple[bytes, bytes]]) -> Response:
        if not self._is_authorized({name.decode("latin-1"): value.decode("latin-1") for name, value in headers}):
            return json_answer({"message": "Bad credentials"}, 401)
        if (refused := self._over_the_limit()) is not None:
            return refused
        try:
            content = self._module.answer(path, query, list(self._deployed.values()))
        except ValueError as error:
            return json_answer({"message": f"invalid parameter: {error}"}, 400)
        if content is None:
            return json_answer({"message": "Not Found"}, 404)
        page = content if isinstance(content, Page) else Page(content, {})
        response = json_answer(page.content)
        response.headers.update(page.headers)
        if self._left is not None:
            response.headers["x-ratelimit-remaining"] = str(self._left)
            response.headers["x-ratelimit-reset"] = str(self._reset_at // 1000)
        return response

    def _is_authorized(self, headers: Mapping[str, str]) -> bool:
        match self.kind:
            case "github":
                return headers.get("authorization") == f"Bearer {self.token}"
            case "gitlab":
                return headers.get("private-token") == self.token
            case "circleci":
                return headers.get("circle-token") == self.token
            case _:
                expected = base64.b64encode(f":{self.token}".encode()).decode()
                return headers.get("authorization") == f"Basic {expected}"

    def _over_the_limit(self) -> Response | None:
        if self._left is None or self._now_ms() >= self._reset_at:
            return None
        if self._left > 0:
            self._left -= 1
            return None
        # GitHub's primary limit. GitLab and the others answer 429 with Retry-After.
        response = json_answer({"message": "API rate limit exceeded"}, 403 if self.kind == "github" else 429)
        if self.kind == "github":
            response.headers["x-ratelimit-remaining"] = "0"
            response.headers["x-ratelimit-reset"] = str(self._reset_at // 1000)
        else:
            response.headers["retry-after"] = str(max(1, (self._reset_at - self._now_ms()) // 1000))
        return response
