"""The pages behind a reverse proxy with a prefix, and what a browser loads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent.sandbox.server import LocalServer
from tests.browser.conftest import log_in
from tests.browser.places import places
from tests.browser.proxy import ReverseProxy
from tests.browser.world import world
from tests.web.conftest import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

    from tests.browser.conftest import Tab
    from tests.browser.world import World

PREFIX = "/tools/hivel"
pytestmark = pytest.mark.xdist_group("a world of its own: proxy")
STATIC_BYTES = 60 * 1024


@pytest.fixture(scope="module")
def prefixed(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("prefixed"), web=f'{SETTINGS}prefix = "{PREFIX}"\n') as played:
        yield played


@pytest.mark.parametrize("strips", [True, False], ids=["prefix cut", "prefix kept"])
@pytest.mark.parametrize("passes_host", [True, False], ids=["Host kept", "Host of the agent"])
def test_every_page_and_link_works_behind_a_proxy_with_a_prefix(
    prefixed: World, tab: Tab, *, strips: bool, passes_host: bool
) -> None:
    url = prefixed.site.url.removesuffix(PREFIX)
    proxy = ReverseProxy(url, PREFIX, strips=strips, passes_host=passes_host)
    with LocalServer(proxy) as server:
        log_in(tab.page, server.url + PREFIX)
        for place in places(prefixed):
            place.go(tab.page, server.url + PREFIX)
            # Links to pages of the agent, and addresses of htmx, all begin with the prefix.
            links = tab.page.eval_on_selector_all(
                "a[href^='/'], form[action], link[href], script[src], [data-hx-get]",
                "all => all.map(each => ['href', 'action', 'src', 'data-hx-get'].map(name => each.getAttribute(name))"
                ".find(value => value !== null))",
            )
            assert all(link.startswith((PREFIX + "/", "?")) for link in links), links
            tab.page.wait_for_load_state("networkidle")
        assert all("404" in complaint for complaint in tab.complaints), tab.complaints
        tab.page.goto(f"{server.url}{PREFIX}/")
        tab.page.get_by_role("button", name="Log out").click()
        tab.page.get_by_role("link", name="Log in").wait_for()
        assert tab.page.url == f"{server.url}{PREFIX}/"


def test_static_files_are_small_and_loaded_once(played: World, tab: Tab) -> None:
    """The first page loads them, no later one does."""
    proxy = ReverseProxy(played.site.url)
    with LocalServer(proxy) as server:
        tab.page.goto(f"{server.url}/")
        tab.page.wait_for_load_state("networkidle")
        cold = {path: size for path, size in proxy.loaded if path.startswith("/static/")}
        assert len(cold) >= 3
        assert sum(cold.values()) <= STATIC_BYTES, cold
        proxy.loaded.clear()
        for path in ("/login", "/", "/login"):
            tab.page.goto(server.url + path)
            tab.page.wait_for_load_state("networkidle")
        assert {path for path, _ in proxy.loaded} == {"/", "/login"}
