"""The pages under a host name, over plain HTTP and behind a proxy with TLS.

A browser sends ``Sec-Fetch-Site`` only to loopback addresses and over TLS. Under another name it sends ``Origin``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from agent.sandbox.server import LocalServer
from tests.browser.conftest import NAMED, log_in, tab_of
from tests.browser.proxy import ReverseProxy
from tests.browser.test_attacks import page_of_an_attacker
from tests.browser.world import world
from tests.integration.network import Authority, Server
from tests.web.conftest import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser

    from tests.browser.conftest import Tab
    from tests.browser.world import World

pytestmark = pytest.mark.xdist_group("a world of its own: named")


@pytest.fixture(scope="module")
def named(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("named"), web=f'{SETTINGS}hosts = ["{NAMED}"]\n') as played:
        yield played


def _under_the_name(url: str) -> str:
    return url.replace("127.0.0.1", NAMED)


def test_one_can_log_in_over_plain_http_under_a_host_name(named: World, tab: Tab) -> None:
    log_in(tab.page, _under_the_name(named.site.url))
    assert [each.get("secure") for each in tab.page.context.cookies()] == [False, False]


def test_another_service_of_the_same_host_cannot_post_over_plain_http(named: World, tab: Tab) -> None:
    """Such as Jenkins on another port. The browser sends the cookie to all ports."""
    url = _under_the_name(named.site.url)
    log_in(tab.page, url)
    with LocalServer(page_of_an_attacker(f"{url}/logout")) as attacker:
        tab.page.goto(_under_the_name(attacker.url))
        with tab.page.expect_navigation() as navigation:
            tab.page.get_by_role("button").click()
        assert navigation.value is not None
        sent = navigation.value.request.all_headers()
        assert "cookie" in sent and "sec-fetch-site" not in sent
        assert navigation.value.status == 403


@pytest.mark.parametrize("passes_host", [True, False], ids=["Host kept", "Host of the agent"])
def test_behind_a_proxy_with_tls_the_session_is_sent_over_tls_only(
    named: World, browser: Browser, tmp_path: Path, *, passes_host: bool
) -> None:
    proxy = ReverseProxy(named.site.url, passes_host=passes_host)
    certificate = Authority(tmp_path / "ca").issue(NAMED)
    with Server(proxy, certificate) as server, tab_of(browser, ignore_https_errors=True) as tab:
        log_in(tab.page, _under_the_name(server.url))
        assert [each.get("secure") for each in tab.page.context.cookies()] == [True, True]
        assert urlsplit(tab.page.url).scheme == "https"
