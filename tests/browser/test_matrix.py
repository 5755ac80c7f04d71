"""Every page in light, dark and forced colours, on a telephone and on a desk: what axe, the console and the CSP say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.browser.conftest import log_in, tab_of
from tests.browser.looks import COLOURS, looks, scrolled
from tests.browser.places import Place, places
from tests.browser.world import SCRIPT

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.browser.conftest import Tab
    from tests.browser.world import World

HTML_BYTES = 20 * 1024


@pytest.mark.parametrize("colours", COLOURS)
def test_every_page_looks_right_in_every_colour_and_width(
    logged_in: Tab, played: World, axe: str, colours: str
) -> None:
    wrong = []
    for place in places(played):
        place.go(logged_in.page, played.site.url)
        wrong += looks(logged_in.page, axe, place, colours)
    assert not wrong, "\n".join(wrong)


def test_no_table_is_wider_than_the_window_of_a_laptop(logged_in: Tab, played: World) -> None:
    wrong = {}
    for place in places(played):
        place.go(logged_in.page, played.site.url)
        wrong[str(place)] = scrolled(logged_in.page)
    assert {place: wide for place, wide in wrong.items() if wide} == {}


def test_nobody_sees_pages_that_look_right_too(tab: Tab, played: World, axe: str) -> None:
    wrong = []
    for place in (Place("/"), Place("/login"), Place("/about"), Place("/deployments", status=401)):
        place.go(tab.page, played.site.url)
        wrong += [each for colours in COLOURS for each in looks(tab.page, axe, place, colours)]
    assert not wrong, "\n".join(wrong)


def test_no_page_complains_or_breaks_the_policy(logged_in: Tab, played: World) -> None:
    for place in places(played):
        place.go(logged_in.page, played.site.url)
        logged_in.page.wait_for_load_state("networkidle")
        if place.status == 404:
            assert logged_in.complaints.pop().startswith("Failed to load resource"), place
        logged_in.expect_quiet()


def test_hostile_names_are_text(logged_in: Tab, played: World) -> None:
    for place in places(played):
        place.go(logged_in.page, played.site.url)
        assert logged_in.page.evaluate("window.attacked") is None, place
        assert logged_in.page.locator("img").count() == 0, place
        assert "\u202e" not in logged_in.page.content(), place
        links = logged_in.page.eval_on_selector_all("a[href]", "all => all.map(each => each.protocol)")
        assert set(links) <= {"http:", "https:"}, place
    logged_in.page.goto(f"{played.site.url}/deployments?state=failed")
    assert SCRIPT in logged_in.page.inner_text("main")


def test_html_is_small(logged_in: Tab, played: World) -> None:
    sizes = {str(place): len(place.go(logged_in.page, played.site.url).body()) for place in places(played)}
    assert max(sizes.values()) <= HTML_BYTES, sizes


def test_every_page_works_without_javascript(browser: Browser, played: World) -> None:
    with tab_of(browser, java_script_enabled=False) as tab:
        log_in(tab.page, played.site.url)
        for place in places(played):
            place.go(tab.page, played.site.url)
            assert tab.page.get_by_role("heading", level=1).count() == 1, place
