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
    """A page at ``path``; with ``press``, after this button was pressed there. ``fill``: a label, and what to enter."""

    path: str
    status: int = 200
    press: str | None = None
    fill: tuple[str, str] | None = None

    def __str__(self) -> str:
        return f"{self.path}{f', {self.press}' if self.press else ''}{f' {self.fill[1]}' if self.fill else ''}"

    def go(self, page: Page, url: str) -> Response:
        """Open the page of the agent at ``url``."""
        answer = page.goto(url + self.path)
        if self.fill is not None:
            page.get_by_label(self.fill[0]).fill(self.fill[1])
        if self.press is not None:
            with page.expect_navigation() as navigation:
                page.get_by_role("button", name=self.press).click()
            answer = navigation.value
        assert answer is not None
        assert answer.status == self.status, f"{self}: {answer.status}"
        return answer


def places(world: World) -> list[Place]:
    """An address of every page, and of some that look different."""
    newest = {state: world.deployments(state)[0] for state in State}
    found = [Place("/login"), Place("/nothing", status=404)]
    for page in PAGES:
        if page.path == "/agents":
            found.append(Place(page.path, status=404))  # the outbox is a file
        elif "{" not in page.path:
            found.append(Place(page.path))
        elif page.path.startswith("/deployments/"):
            prefix = page.path.partition("{")[0]
            found += [Place(f"{prefix}{each.number}") for each in newest.values()]
        elif page.path.startswith("/tasks/"):
            found.append(Place("/tasks/4711", status=404))  # nothing was started yet
        else:
            pytest.fail(f"say which address of {page.path} is to be tried")
    found += [Place(f"/deployments?{query}") for query in ("state=failed", "text=nothing-begins-like-this")]
    found += [Place("/controllers?controller=main"), Place("/controllers?controller=legacy")]
    for press in ("Replay all that match", "Discard all that match"):
        found.append(Place("/deployments?state=failed", press=press))
    for build in ("main:live/shop#6", "main:live/no-such-job#1"):
        found.append(Place("/build", press="Explain", fill=("Address of the build", build)))
    rule = '[[deployment]]\njob = "deploy/**"\nenvironment = "elsewhere"\n'
    for rules in (rule, rule.replace("job", "jib")):
        found.append(Place("/rules", press="Show what would change", fill=("Rules, as TOML", rules)))
    return found
