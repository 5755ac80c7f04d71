"""Buttons that need the pages' own script: choose all rows, copy the event."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.model.deployment import State
from tests.browser.conftest import log_in, tab_of

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.browser.conftest import Tab
    from tests.browser.world import World


def test_a_button_chooses_all_rows_of_the_page_and_none(logged_in: Tab, played: World) -> None:
    page = logged_in.page
    logged_in.open(f"{played.site.url}/deployments?state=failed")
    boxes = page.get_by_role("table").get_by_role("checkbox")
    choose = page.get_by_role("button", name="Choose all on this page")
    choose.click()
    assert boxes.count() > 1
    assert all(box.is_checked() for box in boxes.all())
    choose.click()
    assert not any(box.is_checked() for box in boxes.all())
    logged_in.expect_quiet()


def test_the_event_can_be_copied(browser: Browser, played: World) -> None:
    with tab_of(browser, permissions=["clipboard-read", "clipboard-write"]) as tab:
        log_in(tab.page, played.site.url)
        tab.open(f"{played.site.url}/deployments/{played.deployments(State.DELIVERED)[0].number}")
        tab.page.get_by_role("button", name="Copy").click()
        tab.page.get_by_role("button", name="Copied").wait_for()
        copied = tab.page.evaluate("navigator.clipboard.readText()")
        assert copied.startswith('{"deployment_id":"')
        assert copied == tab.page.locator("#payload").inner_text()
        tab.expect_quiet()


def test_without_scripts_there_are_no_buttons_for_them(browser: Browser, played: World) -> None:
    with tab_of(browser, java_script_enabled=False) as tab:
        log_in(tab.page, played.site.url)
        tab.page.goto(f"{played.site.url}/deployments?state=failed")
        assert tab.page.get_by_role("button", name="Replay the chosen ones").is_visible()
        assert not tab.page.get_by_text("Choose all on this page").is_visible()
