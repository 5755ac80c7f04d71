"""The pages, one module each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.web.pages import (
    about,
    agents,
    build,
    confirm,
    controllers,
    deployment,
    deployments,
    dora,
    failed,
    now,
    rules,
    tasks,
    webhooks,
)

if TYPE_CHECKING:
    from agent.web.page import Action, Page

PAGES: tuple[Page, ...] = (
    now.PAGE,
    deployments.PAGE,
    deployment.PAGE,
    failed.PAGE,
    *tasks.PAGES,
    build.PAGE,
    controllers.PAGE,
    agents.PAGE,
    dora.PAGE,
    rules.PAGE,
    webhooks.PAGE,
    about.PAGE,
)
ACTIONS: tuple[Action, ...] = (
    confirm.CONFIRM,
    tasks.START,
    *build.ACTIONS,
    controllers.POLL,
    agents.HAND_OVER,
    *rules.ACTIONS,
)
