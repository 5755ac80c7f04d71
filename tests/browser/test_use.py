"""How a person uses the pages: with the keyboard alone, in two tabs, while the agent is restarted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.web.conftest import PASSWORD

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.browser.conftest import Tab
    from tests.browser.world import World

_MOST_STOPS = 200
_FOCUSED = """
() => {
  const it = document.activeElement;
  return it.ariaLabel || (it.labels?.[0] || it).textContent.trim();
}
"""
# Where the focus is must be seen: an outline that is there, and inside of the window.
_SEEN = """
() => {
  const style = getComputedStyle(document.activeElement), box = document.activeElement.getBoundingClientRect();
  return style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2 && box.width > 0 && box.bottom > 0
    && box.top < innerHeight && box.right > 0 && box.left < innerWidth;
}
"""


def tab_to(page: Page, words: str) -> None:
    """Press Tab until what has the focus is called like this."""
    for _ in range(_MOST_STOPS):
        page.keyboard.press("Tab")
        if page.evaluate(_FOCUSED) == words:
            assert page.evaluate(_SEEN), f"the focus on {words!r} is not seen"
            return
    raise AssertionError(f"Tab does not lead to {words!r}")


def test_a_person_logs_in_with_the_keyboard(played: World, tab: Tab) -> None:
    page = tab.page
    page.goto(played.site.url)
    tab_to(page, "Skip to the content")
    tab_to(page, "Log in")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Log in").wait_for()
    tab_to(page, "Your name, for the log of actions")
    page.keyboard.type("Ada")
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Log out").wait_for()
    assert page.url == f"{played.site.url}/"
    tab.expect_quiet()
