"""A local platform behind a real socket, and looks at it."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from agent.config.credentials import Token
from agent.config.rules import Pattern
from agent.config.settings import WebhookSettings
from agent.sandbox.platforms import LocalPlatform
from agent.sandbox.server import LocalServer
from agent.sources.webhooks.gaps.api import Api
from agent.sources.webhooks.gaps.streams import stream_of, subjects
from tests.integration.support import FakeClock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.config.settings import Platform
    from agent.sources.webhooks.gaps.look import Subject
    from agent.sources.webhooks.gaps.values import Cursor, Step


@dataclass
class World:
    """A platform, its address, and the hook that asks it."""

    platform: LocalPlatform
    server: LocalServer
    hook: WebhookSettings
    clock: FakeClock
    steps: list[Step] = field(default_factory=list)

    def subject(self, stream: str = "", **hook: Any) -> Subject:
        """The stream of CI jobs, or the one of this name."""
        found = subjects([replace(self.hook, **hook)])
        wanted = (stream,) if stream else ("deployments", "pipelines", "runs")
        return next(each for each in found if each.stream in wanted)

    def read(self, cursor: Cursor, stream: str = "", **hook: Any) -> list[Step]:
        """All steps of one look. They are in ``steps`` too if the look ends with an error."""
        subject = self.subject(stream, **hook)
        self.steps = []

        async def run() -> None:
            async with Api(subject.hook, self.clock) as api:
                api.begin()
                async for step in stream_of(subject)(api, subject.project, cursor):
                    self.steps.append(step)

        asyncio.run(run())
        return self.steps


@contextmanager
def world(kind: Platform, clock: FakeClock | None = None, **hook: Any) -> Iterator[World]:
    """A platform without deployments; ``hook``: settings of the hook."""
    clock = clock or FakeClock()
    platform = LocalPlatform(kind, now_ms=clock.now_ms)
    with LocalServer(platform.app) as server:
        settings = WebhookSettings(
            name=kind,
            platform=kind,
            secrets=(Token("sandbox-secret"),),
            api_url=server.url,
            api_token=Token("sandbox-token"),
            repair=("acme/shop",),
        )
        if kind == "azure_devops":
            settings = replace(settings, projects=(Pattern.parse("acme/shop"),))
        yield World(platform, server, replace(settings, **hook), clock)
