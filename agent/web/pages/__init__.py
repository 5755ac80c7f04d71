"""The pages, one module each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.web.pages import about, build, controllers, deployment, deployments, now, rules

if TYPE_CHECKING:
    from agent.web.page import Action, Page

PAGES: tuple[Page, ...] = (
    now.PAGE,
    deployments.PAGE,
    deployment.PAGE,
    build.PAGE,
    controllers.PAGE,
    rules.PAGE,
    about.PAGE,
)
ACTIONS: tuple[Action, ...] = (
    *build.ACTIONS,
    controllers.POLL,
    *rules.ACTIONS,
)
