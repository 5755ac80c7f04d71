"""Attacks on the login, and what must not keep anybody from logging in."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from agent.web.access import hashed
from tests.integration.support import wait_until
from tests.web.conftest import PASSWORD, SECRETS, SETTINGS, VIEW_PASSWORD, configured, running

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

    from agent.sandbox.server import LocalServer
    from tests.web.conftest import Site


def _log_in(client: httpx.Client, password: str, **headers: str) -> int:
    return client.post(
        "/login", data={"password": password}, headers={"Sec-Fetch-Site": "same-origin"} | headers
    ).status_code


@pytest.mark.parametrize("name", ["李雷", "Zoë", "a;b=c", '"', "50%41", "x" * 500, "\r\nSet-Cookie: a=b"])
def test_a_name_in_any_language_can_log_in(shared_site: Site, name: str) -> None:
    with shared_site.logged_in(name=name) as client:
        page = client.get("/").text
        assert "(may act)" in page
        assert list(client.cookies) == ["hivel_agent_session", "hivel_agent_browser"]
        if name.isalnum():
            assert f"{name[:100]} (may act)" in page


def test_a_form_that_is_too_large_or_no_form_is_refused_at_the_login_too(site: Site) -> None:
    with site.client() as client:
        client.headers["Origin"] = site.url
        for body, status in ((b"x" * 70_000, 413), (b"a=\xff\xfe", 400), (b"a&" * 6000, 400)):
            answer = client.post("/login", content=body)
            assert answer.status_code == status
            assert "This did not work" in answer.text
    assert "Traceback" not in site.whole_log()


@pytest.mark.parametrize("path", ["/deployments/", "/tasks/"])
@pytest.mark.parametrize("digits", [19, 5000])
def test_a_number_of_any_length_is_no_error(site: Site, path: str, digits: int) -> None:
    with site.client() as client:
        assert client.get(path + "9" * digits).status_code == 404
    assert "Traceback" not in site.whole_log()


def test_nobody_can_say_where_a_request_comes_from(site: Site) -> None:
    """Any process of this machine can send this header, as if it were a proxy."""
    with site.client() as client:
        statuses = [_log_in(client, "wrong", **{"X-Forwarded-For": f"192.0.2.{n}"}) for n in range(6)]
    assert statuses == [403] * 5 + [429]
    assert "192.0.2." not in site.whole_log()


def test_guesses_at_the_same_time_do_not_escape_the_limit(
    tmp_path: Path, jenkins_server: LocalServer, hivel_server: LocalServer
) -> None:
    """They are compared one after the other: a hashed password takes 16 MB for each."""
    agent = configured(tmp_path, jenkins_server, hivel_server)
    for name in ("web.password", "web.view-password"):
        (tmp_path / name).write_text(hashed(SECRETS[name], b"salt of sixteen."))
    with running(agent) as site, site.client() as client, ThreadPoolExecutor(40) as threads:
        statuses = list(threads.map(lambda _: _log_in(client, "wrong"), range(40)))
    assert sorted(statuses) == [403] * 5 + [429] * 35


def test_refused_guesses_do_not_fill_the_log(site: Site) -> None:
    with site.client() as client:
        for _ in range(20):
            _log_in(client, "wrong")
    assert site.whole_log().count("login refused") == 5


def test_a_browser_that_was_used_before_is_not_locked_out_by_others(site: Site) -> None:
    """Builds on this machine and users behind the same proxy have the same address."""
    with site.logged_in() as owner:
        owner.post("/logout")
        with site.client() as attacker:
            assert [_log_in(attacker, "wrong") for _ in range(6)] == [403] * 5 + [429]
            assert _log_in(attacker, PASSWORD) == 429
        assert _log_in(owner, "mistyped") == 403
        assert _log_in(owner, PASSWORD) == 303


def test_a_known_browser_has_no_more_guesses_than_others(site: Site) -> None:
    with site.logged_in() as client:
        assert [_log_in(client, "wrong") for _ in range(6)] == [403] * 5 + [429]


def test_who_may_view_gets_no_further_guesses_by_logging_in(site: Site) -> None:
    with site.logged_in(VIEW_PASSWORD) as client:
        assert "hivel_agent_browser" not in client.cookies
        statuses = []
        for _ in range(3):
            statuses += [_log_in(client, "wrong"), _log_in(client, "wrong"), _log_in(client, VIEW_PASSWORD)]
        assert statuses == [403, 403, 303, 403, 403, 303, 403, 429, 429]


def test_a_new_password_makes_no_browser_known_any_more(site: Site) -> None:
    with site.logged_in(name="Ada") as client:
        known = client.cookies["hivel_agent_browser"]
        (site.agent.folder / "web.password").write_text("another-password\n")
        os.kill(site.process.pid, signal.SIGHUP)
        wait_until(lambda: "Ada (may act)" not in client.get("/").text, "the session has ended")
        with site.client() as others:
            assert [_log_in(others, "wrong") for _ in range(5)] == [403] * 5
        assert client.cookies["hivel_agent_browser"] == known
        assert _log_in(client, "another-password") == 429


@pytest.mark.parametrize(
    "forged", ["", "x", "Ada", "Ada.aaaa.bbbb", "Ada.ZXhwZ.6Z-4_" + "A" * 27, "\u00ff", '"\\777"', "." * 3000]
)
def test_a_forged_session_is_nobody(shared_site: Site, forged: str) -> None:
    with shared_site.client() as client:
        for name in ("hivel_agent_session", "hivel_agent_browser"):
            headers = {"Cookie": f"{name}={forged}".encode("latin-1")}
            assert client.get("/now.json", headers=headers).status_code == 401


def test_a_session_cannot_be_made_from_another_cookie_or_given_another_role(shared_site: Site) -> None:
    with shared_site.logged_in() as client, shared_site.logged_in(VIEW_PASSWORD) as viewer:
        browser = client.cookies["hivel_agent_browser"]
        session = viewer.cookies["hivel_agent_session"]
    name, at, signature = session.split(".")
    with shared_site.client() as client:
        for value in (browser, f"{name}.{at}x.{signature}", f"other.{at}.{signature}", f"{name}.{at}.{signature[:-2]}"):
            assert client.get("/now.json", headers={"Cookie": f"hivel_agent_session={value}"}).status_code == 401
        client.cookies.set("hivel_agent_session", session)
        assert client.get("/now.json").status_code == 200
        assert client.post("/rules", headers={"Origin": shared_site.url}).status_code == 403


def test_a_password_file_with_blanks_only_is_no_password(
    tmp_path: Path, jenkins_server: LocalServer, hivel_server: LocalServer
) -> None:
    agent = configured(tmp_path, jenkins_server, hivel_server)
    for name in SECRETS:
        (tmp_path / name).write_text(" \n\t\n")
    with running(agent) as site, site.client() as client:
        assert [_log_in(client, each) for each in ("", " ")] == [403, 403]
        assert client.get("/now.json", headers={"Authorization": "Bearer"}).status_code == 401
        assert "No password is configured" in client.get("/login").text


@pytest.mark.parametrize("prefix", ["", "/tools"])
def test_the_cookies_are_not_readable_by_scripts_and_stay_below_the_prefix(
    tmp_path: Path, jenkins_server: LocalServer, hivel_server: LocalServer, prefix: str
) -> None:
    settings = SETTINGS + (f'prefix = "{prefix}"\n' if prefix else "")
    with running(configured(tmp_path, jenkins_server, hivel_server, settings)) as site, site.client() as client:
        headers = {"Sec-Fetch-Site": "same-origin", "Origin": "https://ci.example.test"}
        answer = client.post(f"{prefix}/login", data={"password": PASSWORD}, headers=headers)
        session, browser = answer.headers.get_list("Set-Cookie")
    for cookie, path, age in ((session, prefix or "/", 43_200), (browser, f"{prefix}/login", 34_560_000)):
        assert {f"Path={path}", "HttpOnly", "SameSite=lax", "Secure", f"Max-Age={age}"} <= set(cookie.split("; "))
