"""Asks the API for what a webhook lacks: stages and runs of Azure DevOps say nothing about branch and commit."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from agent.config.credentials import TokenError
from agent.config.file import ConfigError
from agent.model.trouble import Trouble
from agent.sources.webhooks.gaps.api import Api
from agent.sources.webhooks.gaps.azure import build_of, with_build
from agent.sources.webhooks.gaps.errors import ApiError
from agent.sources.webhooks.platforms import azure
from agent.sources.webhooks.values import Ended, Ignored

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.config.settings import WebhookSettings
    from agent.model.part import Part
    from agent.model.times import Clock
    from agent.sources.webhooks.values import Delivery, Invalid, Meaning

# The platform waits for the answer meanwhile. Without an answer of the API, the delivery is taken as it is.
PATIENCE_S = 5.0
# Runs whose builds are remembered: the stages of a run have the same.
MOST_RUNS = 100


class Completion:
    """The APIs of the webhooks that need one. Use as ``async with``."""

    def __init__(self, hooks: Sequence[WebhookSettings], clock: Clock) -> None:
        self._hooks = [each for each in hooks if each.platform == "azure_devops" and each.api_token is not None]
        self._clock = clock
        self._apis: dict[str, Api] = {}
        self._builds: dict[tuple[str, str, str], Part] = {}
        self._trouble = {hook.name: Trouble(f"the API of webhook {hook.name}", clock) for hook in self._hooks}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        for hook in self._hooks:
            try:
                self._apis[hook.name] = await self._stack.enter_async_context(Api(hook, self._clock))
            except (ConfigError, OSError) as error:
                self._trouble[hook.name].note("", str(error))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def completed(
        self, hook: WebhookSettings, delivery: Delivery, meaning: Meaning | Invalid
    ) -> Meaning | Invalid:
        """The meaning with repository, branch and commit, if the API has them; otherwise the same meaning."""
        api = self._apis.get(hook.name)
        if api is None or not _lacks(meaning):
            return meaning
        try:
            found = azure.run_of(delivery.body, hook)
            if found is None:
                return meaning
            build = await self._build(api, *found)
            return azure.read(replace(delivery, body=with_build(delivery.body, build)), hook)
        except (ApiError, ValueError, TokenError) as error:
            self._trouble[hook.name].note("", str(error))
            return meaning

    async def _build(self, api: Api, project: str, run: str) -> Part:
        key = (api.hook.name, project, run)
        if key not in self._builds:
            api.begin()
            try:
                async with asyncio.timeout(PATIENCE_S):
                    build = await build_of(api, project, run)
            except TimeoutError:
                raise ApiError(f"run {run} of {project}: no answer within {PATIENCE_S:g} s") from None
            self._trouble[api.hook.name].note("", None)
            while len(self._builds) >= MOST_RUNS:
                del self._builds[next(iter(self._builds))]
            self._builds[key] = build
        return self._builds[key]


def _lacks(meaning: Meaning | Invalid) -> bool:
    match meaning:
        case Ended(report=report):
            return not report.get("commit_hash")
        case Ignored(lacks=lacks):
            return lacks
        case _:
            return False
