"""Who sees what on the pages, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.web.conftest import PASSWORD, TOKEN, VIEW_PASSWORD, VIEW_TOKEN, running

if TYPE_CHECKING:
    from tests.web.conftest import Site


def test_without_a_login_the_first_page_shows_counts_and_no_rows(shared_site: Site) -> None:
    with shared_site.client() as client:
        page = client.get("/")
        assert page.status_code == 200
        assert "deployments are at Hivel" in page.text
        assert client.get("/now.json").status_code == 401
        assert client.get("/now.csv").status_code == 401


@pytest.mark.parametrize("token", [TOKEN, VIEW_TOKEN])
def test_a_bearer_token_reads_the_json_and_csv_forms(shared_site: Site, token: str) -> None:
    with shared_site.client(token) as client:
        now = client.get("/now.json")
        assert now.status_code == 200
        assert set(now.json()["counts"]) == {"pending", "held", "delivered", "failed", "discarded"}
        assert client.get("/now.csv").text.startswith("controller,state,")


def test_a_wrong_token_is_nobody(shared_site: Site) -> None:
    with shared_site.client("wrong") as client:
        assert client.get("/now.json").status_code == 401


@pytest.mark.parametrize(("password", "words"), [(PASSWORD, "may act"), (VIEW_PASSWORD, "may view")])
def test_each_password_gives_its_role(shared_site: Site, password: str, words: str) -> None:
    with shared_site.logged_in(password, "Ada") as client:
        page = client.get("/").text
        assert f"Ada ({words})" in page


def test_a_session_ends_with_the_logout(shared_site: Site) -> None:
    with shared_site.logged_in() as client:
        assert "Log out" in client.get("/").text
        assert client.post("/logout").status_code == 303
        assert "Log out" not in client.get("/").text


def test_a_session_survives_a_restart_of_the_daemon(site: Site) -> None:
    with site.logged_in(name="Ada") as client:
        cookies = dict(client.cookies)
    with running(site.agent) as again, again.client() as client:
        client.cookies.update(cookies)
        assert "Ada (may act)" in client.get("/").text


def test_five_wrong_passwords_in_a_minute_lock_the_login_of_that_address(site: Site) -> None:
    with site.client() as client:
        client.headers["Origin"] = site.url
        statuses = [client.post("/login", data={"password": "wrong"}).status_code for _ in range(6)]
        assert statuses == [403] * 5 + [429]
        assert client.post("/login", data={"password": PASSWORD}).status_code == 429


def test_a_login_leads_back_to_a_page_of_the_agent_only(shared_site: Site) -> None:
    with shared_site.client() as client:
        client.headers["Origin"] = shared_site.url
        for wanted, leads_to in (
            ("/now?x=1", "/now?x=1"),
            ("//evil.test/", "/"),
            ("https://evil.test/", "/"),
            ("/\\evil", "/"),
        ):
            answer = client.post("/login", data={"password": PASSWORD, "next": wanted})
            assert (answer.status_code, answer.headers["Location"]) == (303, leads_to)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "none"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 303),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": "null"}, 403),
        ({}, 403),
    ],
)
def test_a_post_of_another_site_is_refused(shared_site: Site, headers: dict[str, str], status: int) -> None:
    with shared_site.client() as client:
        answer = client.post("/login", data={"password": PASSWORD}, headers=headers)
        assert answer.status_code == status
        assert ("set-cookie" in answer.headers) == (status == 303)


@pytest.mark.parametrize("host", ["evil.test", "evil.test:9471", "127.0.0.1.evil.test", "[::1", ""])
def test_a_name_that_was_bound_to_this_address_is_refused(shared_site: Site, host: str) -> None:
    with shared_site.client(TOKEN) as client:
        assert client.get("/now.json", headers={"Host": host}).status_code == 421


@pytest.mark.parametrize("path", ["/", "/login", "/nothing", "/now.json", "/static/nothing"])
def test_every_answer_has_the_security_headers(shared_site: Site, path: str) -> None:
    with shared_site.client() as client:
        headers = client.get(path).headers
        assert headers["Content-Security-Policy"].startswith("default-src 'none'; ")
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cache-Control"] == "no-store"
