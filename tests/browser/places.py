"""Every page, and how to get there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from agent.model.deployment import State
from agent.web.pages import PAGES

if TYPE_CHECKING:
    from playwright.sync_api import Page, Response

    from tests.browser.world import World


@dataclass(frozen=True)
class Place:
    """A page at ``path``; with ``build``, after this build was asked for there."""

    path: str
    status: int = 200
    build: str | None = None

    def __str__(self) -> str:
        return self.path if self.build is None else f"{self.path} with {self.build}"

    def go(self, page: Page, url: str) -> Response:
        """Open the page of the agent at ``url``."""
        answer = page.goto(url + self.path)
        if self.build is not None:
            page.get_by_label("Address of the build").fill(self.build)
            with page.expect_navigation() as navigation:
                page.get_by_role("button", name="Explain").click()
            answer = navigation.value
        assert answer is not None
        assert answer.status == self.status, f"{self}: {answer.status}"
        return answer


def places(world: World) -> list[Place]:
    """An address of every page, and of some that look different."""
    newest = {state: world.deployments(state)[0] for state in State}
    found = [Place("/login"), Place("/nothing", status=404)]
    for page in PAGES:
        if "{" not in page.path:
            found.append(Place(page.path))
        elif page.path.startswith("/deployments/"):
            prefix = page.path.partition("{")[0]
            found += [Place(f"{prefix}{each.number}") for each in newest.values()]
        else:
            pytest.fail(f"say which address of {page.path} is to be tried")
    found += [Place(f"/deployments?{query}") for query in ("state=failed", "text=nothing-begins-like-this")]
    found += [Place("/controllers?controller=main"), Place("/controllers?controller=legacy")]
    found += [Place("/build", build=build) for build in ("main:live/shop#6", "main:live/no-such-job#1")]
    return found
