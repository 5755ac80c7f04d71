"""Parts of a page that refresh themselves: every ten seconds of the browser's clock, which the tests own."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.browser.conftest import log_in
from tests.browser.world import stage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

    from tests.browser.conftest import Tab
    from tests.browser.world import Stage, World

pytestmark = pytest.mark.xdist_group("a world of its own: live")
# Stands for what changed meanwhile: a refresh replaces it by what the agent says.
_AGE = "() => { document.querySelector('#live .state').textContent = 'old'; }"
_IS_REFRESHED = "() => document.querySelector('#live .state').textContent !== 'old'"


def open_at(page: Page, url: str) -> None:
    page.clock.install()
    page.goto(url)
    page.wait_for_function("() => window.htmx !== undefined")


@contextmanager
def refreshed(page: Page, path: str = "/") -> Iterator[None]:
    """The block ends when the page has asked for itself and got an answer."""
    with page.expect_response(lambda answer: answer.request.resource_type == "fetch"):
        yield
        page.clock.run_for(10_000)


def test_a_page_refreshes_itself_and_keeps_focus_and_scroll(played: World, tab: Tab) -> None:
    page = tab.page
    page.set_viewport_size({"width": 800, "height": 300})
    open_at(page, played.site.url)
    link = page.locator("#live .cards a").last
    link.focus()
    page.evaluate("() => { window.before = document.activeElement; scrollTo(0, 200); }")
    scroll = page.evaluate("() => scrollY")
    assert scroll > 0
    page.evaluate(_AGE)
    with refreshed(page):
        pass
    page.wait_for_function(_IS_REFRESHED)
    assert page.evaluate("() => document.activeElement === window.before && document.activeElement.isConnected")
    assert page.evaluate("() => scrollY") == scroll
    tab.expect_quiet()


def test_what_a_person_opened_stays_open(played: World, tab: Tab) -> None:
    open_at(tab.page, played.site.url)
    tab.page.locator("#live summary").first.click()
    tab.page.evaluate(_AGE)
    with refreshed(tab.page):
        pass
    tab.page.wait_for_function(_IS_REFRESHED)
    assert tab.page.locator("#live details").first.evaluate("each => each.open")


def test_a_page_that_nobody_sees_asks_for_nothing(played: World, tab: Tab) -> None:
    asked = []
    open_at(tab.page, played.site.url)
    tab.page.on("request", lambda request: asked.append(request.url))
    tab.page.evaluate("() => Object.defineProperty(document, 'hidden', {value: true, configurable: true})")
    tab.page.clock.run_for(60_000)
    assert asked == []
    tab.page.evaluate("() => delete document.hidden")
    with refreshed(tab.page):
        pass


@pytest.fixture(scope="module")
def prepared(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """An agent whose pages have the same address each time it is started."""
    with stage(tmp_path_factory.mktemp("restarted")) as prepared:
        with prepared.running() as played:
            port = urlsplit(played.site.url).port
        config = prepared.agent.config
        free, taken = (f'[web]\nlisten = "127.0.0.1:{each}"' for each in (0, port))
        config.write_text(config.read_text().replace(free, taken))
        yield prepared


def test_a_page_says_that_it_is_old_while_the_agent_is_down(prepared: Stage, tab: Tab) -> None:
    """What was on the page stays there. When the agent is back, the page refreshes itself again."""
    page = tab.page
    words = page.get_by_text("This page could not refresh itself")
    with prepared.running() as played:
        open_at(page, played.site.url)
    page.clock.run_for(10_000)
    words.wait_for()
    assert page.locator("#live .cards").is_visible()
    with prepared.running():
        page.clock.run_for(10_000)
        words.wait_for(state="hidden")


def test_a_click_after_a_restart_of_the_agent_works(prepared: Stage, tab: Tab) -> None:
    with prepared.running() as played:
        log_in(tab.page, played.site.url)
    with prepared.running():
        tab.page.get_by_role("link", name="Controllers").first.click()
        tab.page.get_by_role("heading", name="Controllers", level=1).wait_for()
        tab.page.get_by_role("button", name="Log out").wait_for()


def test_a_confirmation_from_before_a_restart_changes_nothing_and_says_so(prepared: Stage, tab: Tab) -> None:
    page = tab.page
    with prepared.running() as played:
        log_in(page, played.site.url)
        page.goto(f"{played.site.url}/deployments?state=failed")
        page.get_by_role("checkbox", name="Choose").first.check()
        before = played.counts()
    with prepared.running():
        page.get_by_role("button", name="Replay the chosen ones").click()
        page.get_by_role("heading", name="Replay 1 deployment?").wait_for()
    with prepared.running() as played:
        page.get_by_role("button", name="Replay 1").click()
        page.get_by_text("Nothing was changed. Select the deployments again").wait_for()
        assert played.counts() == before
