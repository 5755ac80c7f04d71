"""Deployments of a local platform as time goes by, whose webhooks arrive or are lost."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.sandbox.platforms.local import LocalPlatform
    from agent.sandbox.platforms.model import Deployed, Outcome

_MINUTE_MS = 60_000
_BRANCHES = ("main", "release/1", "release/2")
# A job that begins with ``deploy`` is what rules for CircleCI and Azure DevOps name.
_OUTCOMES: tuple[Outcome, ...] = ("success", "success", "failed", "success", "canceled")


class Playing:
    """Plays deployments of one project.

    ``url``: where the platform sends its webhooks; None: it sends none. ``lose``: webhooks of every Nth deployment
    are lost; 0: none. ``tell``: is told what was sent and lost.
    """

    def __init__(
        self,
        platform: LocalPlatform,
        project: str,
        *,
        url: str | None = None,
        lose: int = 0,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._platform = platform
        self._project = project
        self._url = url
        self._lose = lose
        self._tell = tell
        self._running: list[Deployed] = []
        self._ended = 0
        self._lock = threading.Lock()

    def begin(self, count: int, now_ms: int) -> None:
        """Deployments that ended during the last hour. Their webhooks were lost."""
        for i in range(count):
            ended_at = now_ms - (count - i) * 60 * _MINUTE_MS // (count + 1)
            self._platform.deploy(self._project, ended_at=ended_at, **self._next())

    def play(self, now_ms: int) -> None:
        """What runs ends, and another deployment begins."""
        with self._lock:
            for one in self._running:
                self._send(self._platform.change(one.number, ended_at=now_ms))
            self._running = [self._platform.deploy(self._project, ended_at=None, started_at=now_ms, **self._next())]

    def _next(self) -> dict[str, object]:
        self._ended += 1
        i = self._ended
        return {"outcome": _OUTCOMES[i % len(_OUTCOMES)], "branch": _BRANCHES[i % len(_BRANCHES)]}

    def _send(self, one: Deployed) -> None:
        if self._url is None:
            return
        if self._lose and one.number % self._lose == 0:
            self._tell(f"deployment {one.number}: its webhooks are lost")
            return
        try:
            answers = self._platform.send(self._url, one)
        except httpx.HTTPError as error:
            self._tell(f"deployment {one.number}: {type(error).__name__} at {self._url}: {error}")
        else:
            self._tell(f"deployment {one.number}: {', '.join(_shown(each) for each in answers)}")


def _shown(answer: httpx.Response) -> str:
    return f"{answer.status_code} {answer.text.strip()}"
