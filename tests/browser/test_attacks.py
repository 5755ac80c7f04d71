"""What another site can do to somebody who is logged in: nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from starlette.responses import HTMLResponse

from agent.model.deployment import State
from agent.sandbox.server import LocalServer
from agent.web.pages import ACTIONS
from tests.browser.conftest import REBOUND

if TYPE_CHECKING:
    from tests.browser.conftest import Tab
    from tests.browser.world import World


def page_of_an_attacker(target: str) -> HTMLResponse:
    """With a form that its reader is made to send."""
    return HTMLResponse(f'<form method="post" action="{target}"><button>You have won</button></form>')


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"], ids=["another port", "another site"])
def test_a_post_from_another_origin_is_refused(played: World, logged_in: Tab, host: str) -> None:
    """From another port of the same host the browser even sends the cookie."""
    before = played.counts()
    number = played.deployments(State.FAILED)[0].number
    for path in ("/logout", *(action.path.replace("{number}", str(number)) for action in ACTIONS)):
        with LocalServer(page_of_an_attacker(played.site.url + path)) as attacker:
            logged_in.page.goto(attacker.url.replace("127.0.0.1", host))
            with logged_in.page.expect_navigation() as navigation:
                logged_in.page.get_by_role("button").click()
            assert navigation.value is not None
            sent = navigation.value.request.all_headers()
            assert sent["sec-fetch-site"] == ("same-site" if host == "127.0.0.1" else "cross-site"), path
            assert ("cookie" in sent) == (host == "127.0.0.1"), path
            assert navigation.value.status == 403, path
    logged_in.page.goto(played.site.url)
    assert logged_in.page.get_by_role("button", name="Log out").is_visible()
    assert played.counts() == before


def test_a_name_that_another_site_points_to_this_machine_is_refused(played: World, logged_in: Tab) -> None:
    answer = logged_in.page.goto(f"http://{REBOUND}:{urlsplit(played.site.url).port}/")
    assert answer is not None
    assert answer.status == 421
    assert "Hivel agent" not in logged_in.page.title()


def test_no_other_page_can_frame_the_pages(played: World, logged_in: Tab) -> None:
    page = HTMLResponse(f'<iframe src="{played.site.url}/"></iframe>')
    with LocalServer(page) as attacker:
        logged_in.page.goto(attacker.url)
        frame = logged_in.page.frames[-1]
        assert "Hivel agent" not in frame.content()
        assert any("frame-ancestors" in complaint for complaint in logged_in.complaints)
