"""Every page in light, dark and forced colours, on a telephone and on a desk: what axe, the console and the CSP say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent.model.deployment import State
from agent.web.pages import PAGES
from tests.browser.conftest import log_in, tab_of

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from tests.browser.conftest import Tab
    from tests.browser.world import World

WIDTHS = (320, 1440)
# What Playwright calls each of them.
COLOURS = {
    "light": {"color_scheme": "light", "forced_colors": "none"},
    "dark": {"color_scheme": "dark", "forced_colors": "none"},
    "forced": {"color_scheme": "dark", "forced_colors": "active"},
}
HTML_BYTES = 20 * 1024
# WCAG 2.2 AA, and what axe calls best practice.
_AXE = """
() => axe.run(document, {runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}).then(
  result => result.violations.flatMap(v => v.nodes.map(n => `${v.id}: ${n.target} ${n.failureSummary}`)))
"""
# A page that is wider than its window scrolls sideways; what a box of its own scrolls is fine.
_WIDER = """
() => {
  const wide = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= wide) return [];
  return [...document.querySelectorAll("body *")].filter(e => e.getBoundingClientRect().right > wide + 1)
    .slice(0, 5).map(e => e.outerHTML.slice(0, 200));
}
"""


def paths(world: World) -> list[str]:
    """An address of every page, and of some that look different."""
    newest = {state: world.deployments(state)[0] for state in State}
    found = ["/login", "/nothing"]
    for page in PAGES:
        if "{" not in page.path:
            found.append(page.path)
        elif page.path.startswith("/deployments/"):
            prefix = page.path.partition("{")[0]
            found += [f"{prefix}{each.number}" for each in newest.values()]
        else:
            pytest.fail(f"say which address of {page.path} is to be tried")
    if "/deployments" in found:
        found += [f"/deployments?{query}" for query in ("state=failed", "text=nothing-begins-like-this")]
    return found


def looks(page: Page, axe: str, path: str) -> list[str]:
    """What is wrong with how the page looks, in every colour and width."""
    wrong = []
    page.evaluate(axe)
    for colours, media in COLOURS.items():
        page.emulate_media(**media)
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 800})
            here = f"{path} {colours} {width} px"
            wrong += [f"{here}: {violation}" for violation in page.evaluate(_AXE)]
            wrong += [f"{here}: wider than its window: {element}" for element in page.evaluate(_WIDER)]
    return wrong


@pytest.fixture(scope="session")
def axe(browser: Browser) -> str:
    from importlib.resources import files

    pytest.importorskip("axe_playwright_python")
    return files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")


def test_every_page_looks_right_in_every_colour_and_width(logged_in: Tab, played: World, axe: str) -> None:
    wrong = []
    for path in paths(played):
        logged_in.page.goto(played.site.url + path)
        wrong += looks(logged_in.page, axe, path)
    assert not wrong, "\n".join(wrong)


def test_nobody_sees_pages_that_look_right_too(tab: Tab, played: World, axe: str) -> None:
    wrong = []
    for path in ("/", "/login", "/deployments"):
        tab.page.goto(played.site.url + path)
        wrong += looks(tab.page, axe, path)
    assert not wrong, "\n".join(wrong)


def test_no_page_complains_or_breaks_the_policy(logged_in: Tab, played: World) -> None:
    for path in paths(played):
        answer = logged_in.page.goto(played.site.url + path)
        assert answer is not None
        if path == "/nothing":  # a browser says 404 in the console
            assert answer.status == 404
            logged_in.complaints.clear()
            continue
        assert answer.status == 200, path
        logged_in.page.wait_for_load_state("networkidle")
        logged_in.expect_quiet()


def test_hostile_names_are_text(logged_in: Tab, played: World) -> None:
    for path in paths(played):
        logged_in.page.goto(played.site.url + path)
        assert logged_in.page.evaluate("window.attacked") is None, path
        assert logged_in.page.locator("img").count() == 0, path
        assert "\u202e" not in logged_in.page.content(), path
        links = logged_in.page.eval_on_selector_all("a[href]", "all => all.map(each => each.protocol)")
        assert set(links) <= {"http:", "https:"}, path


def test_html_is_small(logged_in: Tab, played: World) -> None:
    sizes = {}
    for path in paths(played):
        answer = logged_in.page.goto(played.site.url + path)
        assert answer is not None
        sizes[path] = len(answer.body())
    assert max(sizes.values()) <= HTML_BYTES, sizes


def test_every_page_works_without_javascript(browser: Browser, played: World) -> None:
    with tab_of(browser, java_script_enabled=False) as tab:
        log_in(tab.page, played.site.url)
        for path in paths(played):
            answer = tab.page.goto(played.site.url + path)
            assert answer is not None
            assert answer.status == (404 if path == "/nothing" else 200), path
            assert tab.page.get_by_role("heading", level=1).count() == 1, path
