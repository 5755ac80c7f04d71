"""Deployments that failed are replayed: one with the keyboard alone, 5,000 at once, in two tabs."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from agent.model.times import Clock
from agent.outbox.sqlite.engine import SqliteOutbox
from tests.browser.conftest import log_in, tab_of
from tests.browser.looks import COLOURS, looks
from tests.browser.places import Place
from tests.browser.test_live import open_at, refreshed
from tests.browser.test_use import tab_to
from tests.browser.world import world
from tests.integration.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

    from tests.browser.conftest import Tab
    from tests.browser.world import World

MANY = 5_000
pytestmark = pytest.mark.xdist_group("a world of its own: replay")


@pytest.fixture(scope="module")
def broken(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world in which 5,000 deployments failed for one reason."""
    with world(tmp_path_factory.mktemp("broken"), failed=MANY) as played:
        yield played


@pytest.fixture
def at_work(browser: Browser, broken: World) -> Iterator[Tab]:
    with tab_of(browser) as tab:
        log_in(tab.page, broken.site.url)
        yield tab


def chosen(page: Page, world: World, job: str) -> int:
    """Choose the newest failed deployment of this job; returns its number."""
    page.goto(f"{world.site.url}/deployments?state=failed&job={job}")
    box = page.get_by_role("checkbox", name="Choose").first
    box.check()
    return int(box.get_attribute("value") or 0)


@contextmanager
def nothing_written(world: World) -> Iterator[None]:
    """No other process can write the outbox in the block."""
    with SqliteOutbox(world.outbox, Clock()) as outbox, outbox.transaction():
        yield


def test_one_deployment_is_replayed_with_the_keyboard_alone(broken: World, at_work: Tab) -> None:
    page = at_work.page
    page.goto(f"{broken.site.url}/")
    tab_to(page, "Failed")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Failed", level=1).wait_for()
    link = page.locator("main th a", has_text="unknown application")
    tab_to(page, link.inner_text())
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Deployments", level=1).wait_for()
    tab_to(page, page.get_by_role("checkbox", name="Choose").first.get_attribute("aria-label") or "")
    page.keyboard.press("Space")
    assert page.get_by_role("checkbox", checked=True, name="Choose").count() == 1
    tab_to(page, "Replay the chosen ones")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Replay 1 deployment?").wait_for()
    tab_to(page, "Replay 1")
    page.keyboard.press("Enter")
    page.get_by_text("1 of 1 replayed, 0 refused, 0 left.").wait_for()
    at_work.expect_quiet()


def test_a_refresh_keeps_what_is_selected_and_where_the_reader_is(broken: World, at_work: Tab) -> None:
    page = at_work.page
    open_at(page, f"{broken.site.url}/deployments?state=failed&job=many/failed")
    boxes = page.get_by_role("checkbox", name="Choose")
    boxes.nth(3).check()
    page.evaluate("() => scrollTo(0, 400)")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.clock.run_for(60_000)
    assert not asked
    assert boxes.nth(3).is_checked()
    assert page.evaluate("() => scrollY") == 400
    boxes.nth(3).uncheck()
    page.evaluate("() => document.activeElement.blur()")
    with refreshed(page):
        pass
    assert page.evaluate("() => scrollY") == 400
    at_work.expect_quiet()


def test_of_two_tabs_one_replays_and_the_other_is_told(broken: World, at_work: Tab) -> None:
    first, second = at_work.page, at_work.page.context.new_page()
    number = chosen(first, broken, "deploy/refused")
    assert chosen(second, broken, "deploy/refused") == number
    for page in (first, second):
        page.get_by_role("button", name="Replay the chosen ones").click()
        page.get_by_role("heading", name="Replay 1 deployment?").wait_for()
    first.get_by_role("button", name="Replay 1").click()
    first.get_by_text("1 of 1 replayed").wait_for()
    second.get_by_role("button", name="Replay 1").click()
    second.get_by_text("0 of 1 replayed, 1 refused, 0 left.").wait_for()
    second.get_by_text("it has changed since it was selected").wait_for()


def test_many_are_replayed_at_once_with_progress(broken: World, at_work: Tab, axe: str) -> None:
    """The count comes first; the progress is seen without a reload; Hivel has each of them once."""
    page = at_work.page
    page.goto(f"{broken.site.url}/failed")
    row = page.get_by_role("row").filter(has_text="unknown application")
    with page.expect_navigation():
        row.get_by_role("button", name="Replay").click()
    page.get_by_text("deployments are to be replayed").wait_for()
    button = page.get_by_role("main").get_by_role("button", name="Replay")
    total = int(button.inner_text().removeprefix("Replay ").replace(",", ""))
    assert MANY - 1 <= total <= MANY
    with nothing_written(broken):
        button.click()
        page.get_by_text(f"0 of {total:,} replayed, 0 refused, {total:,} left.").wait_for()
        assert looks(page, axe, Place("a task that runs"), "light") == []
        page.emulate_media(color_scheme="light")
    page.get_by_text(f"{total:,} of {total:,} replayed, 0 refused, 0 left.").wait_for()
    assert page.get_by_role("progressbar").evaluate("each => each.value") == total
    at_work.expect_quiet()
    assert [each for colours in COLOURS for each in looks(page, axe, Place("a task that is done"), colours)] == []
    wait_until(lambda: broken.counts()["pending"] == 1, "Hivel has all but the one that waits")
    sent = [each for each in broken.hivel.deployments() if ":many/failed#" in each.event.deployment_id]
    assert len(sent) == MANY
    assert {each.times_posted for each in sent} == {1}
