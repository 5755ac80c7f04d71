"""Who sees what on the pages, and what is refused."""

from __future__ import annotations

import os
import re
import signal
import socket
from typing import TYPE_CHECKING

import pytest

from agent.web.access import hashed
from tests.integration.support import wait_until
from tests.web.conftest import PASSWORD, SETTINGS, TOKEN, VIEW_PASSWORD, VIEW_TOKEN, configured, running, site_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agent.sandbox.server import LocalServer
    from tests.web.conftest import Site


@pytest.fixture(scope="module")
def named_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Under further names."""
    settings = f'{SETTINGS}hosts = ["CI.test", "ported.test:8443", "fd00::1"]\n'
    with site_of(tmp_path_factory.mktemp("named"), settings) as site:
        yield site


def test_without_a_login_the_first_page_shows_counts_and_no_rows(shared_site: Site) -> None:
    with shared_site.client() as client:
        page = client.get("/")
        assert page.status_code == 200
        assert "0 wait, 0 failed." in page.text
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


def test_a_session_survives_a_restart_of_the_daemon(
    tmp_path: Path, jenkins_server: LocalServer, hivel_server: LocalServer
) -> None:
    agent = configured(tmp_path, jenkins_server, hivel_server)
    with running(agent) as site, site.logged_in(name="Ada") as client:
        cookies = dict(client.cookies)
    with running(agent) as again, again.client() as client:
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


# No browser sends these.
_ODD = (
    "127.0.0.1/x",
    "evil.test@127.0.0.1",
    "127.0.0.1?x",
    "127.0.0.1#x",
    "localhost:x",
    "127.1",
    "localhost,x",
    "::1",
)


@pytest.mark.parametrize("host", ["evil.test", "evil.test:9471", "127.0.0.1.evil.test", "[::1", "", *_ODD])
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
        assert headers["Referrer-Policy"] == "same-origin"
        assert headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("host", ["LOCALHOST", "localhost.", "127.0.0.1:1", "127.9.9.9", "[::1]:80"])
def test_loopback_is_the_agents_own_name_in_any_form(shared_site: Site, host: str) -> None:
    with shared_site.client() as client:
        assert client.get("/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("ci.test", "https://ci.test", 303),
        ("ci.test:9471", "http://ci.test:9471", 303),
        ("CI.test:9471", "http://ci.test:9471", 303),
        ("[fd00::1]:9471", "http://[fd00::1]:9471", 303),
        # Proxies that send a Host of their own, or leave the port out.
        ("127.0.0.1:9471", "https://ci.test", 303),
        ("127.0.0.1:9471", "https://[fd00::1]", 303),
        ("127.0.0.1:9471", "https://ci.test:8443", 403),
        ("127.0.0.1:9471", "https://ported.test:8443", 303),
        ("ported.test", "https://ported.test:8443", 303),
        # Another service of the same host, such as Jenkins.
        ("ci.test:9471", "http://ci.test:8080", 403),
        ("ci.test:9471", "http://ci.test", 403),
        ("ci.test", "http://ci.test:8080", 403),
        ("ported.test:9471", "http://ported.test:8443", 403),
        ("ci.test", "https://x.ci.test", 403),
        ("ci.test", "https://ci.test.evil.test", 403),
        ("ci.test", "https://evil.test/ci.test", 403),
        ("ci.test", "ci.test", 403),
    ],
)
def test_a_form_is_accepted_from_the_agents_own_pages_only(
    named_site: Site, host: str, origin: str, status: int
) -> None:
    """Without Sec-Fetch-Site, which browsers do not send over plain HTTP to other hosts."""
    with named_site.client() as client:
        headers = {"Host": host, "Origin": origin}
        assert client.post("/login", data={"password": PASSWORD}, headers=headers).status_code == status


def test_a_password_that_cannot_be_read_stops_neither_the_agent_nor_the_pages(
    tmp_path: Path, jenkins_server: LocalServer, hivel_server: LocalServer
) -> None:
    agent = configured(tmp_path, jenkins_server, hivel_server)
    (tmp_path / "web.password").write_text("")
    with running(agent) as site, site.client(TOKEN) as client:
        assert client.get("/now.json").status_code == 200
        client.headers["Origin"] = site.url
        assert client.post("/login", data={"password": ""}).status_code == 403
        assert client.post("/login", data={"password": VIEW_PASSWORD}).status_code == 303
    checked = agent.run("check", "--offline")
    assert f"{tmp_path / 'web.password'} is empty" in checked.stdout


def test_the_password_beside_the_configuration_is_the_default_and_may_be_hashed(
    tmp_path: Path, jenkins_server: LocalServer, hivel_server: LocalServer
) -> None:
    agent = configured(tmp_path, jenkins_server, hivel_server, 'listen = "127.0.0.1:0"\n')
    (tmp_path / "web.password").write_text(hashed(PASSWORD, b"salt of sixteen.") + "\n")
    with running(agent) as site, site.logged_in() as client:
        assert "may act" in client.get("/").text
        assert client.post("/login", data={"password": hashed(PASSWORD, b"salt of sixteen.")}).status_code == 403


def test_a_busy_port_disables_the_pages_and_nothing_else(
    tmp_path: Path, jenkins_server: LocalServer, hivel_server: LocalServer
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        agent = configured(tmp_path, jenkins_server, hivel_server, f'listen = "127.0.0.1:{port}"\n')
        process = agent.start()
        try:
            agent.wait_for_log("event=started")
            agent.wait_for_log("cannot listen")
            assert f"127.0.0.1:{port}" in agent.log()
        finally:
            process.terminate()
            assert process.wait(120) == 0


def test_the_header_of_a_proxy_counts_only_with_its_secret(
    tmp_path: Path, jenkins_server: LocalServer, hivel_server: LocalServer
) -> None:
    proxy = 'proxy = { user_header = "X-User", secret_file = "proxy.secret", operators = ["Ada", "Zoë"] }\n'
    (tmp_path / "proxy.secret").write_text("shared-with-the-proxy\n")
    with (
        running(configured(tmp_path, jenkins_server, hivel_server, SETTINGS + proxy)) as site,
        site.client() as client,
    ):
        secret = {"X-Hivel-Agent-Proxy-Secret": "shared-with-the-proxy"}
        assert client.get("/now.json", headers={"X-User": "Ada"}).status_code == 401
        assert (
            client.get("/now.json", headers={"X-User": "Ada", "X-Hivel-Agent-Proxy-Secret": "guess"}).status_code == 401
        )
        assert "Ada (may act)" in client.get("/", headers=secret | {"X-User": "Ada"}).text
        assert "Bob (may view)" in client.get("/", headers=secret | {"X-User": "Bob"}).text
        assert "Log out" not in client.get("/", headers=secret | {"X-User": "Bob"}).text
        assert client.get("/now.json", headers=secret).status_code == 401
        # A proxy that adds the header to the one of its client, or the secret to a guess.
        twice = [*secret.items(), ("X-User", "Ada"), ("X-User", "Bob")]
        assert client.get("/now.json", headers=twice).status_code == 401
        guessed = [*secret.items(), ("X-Hivel-Agent-Proxy-Secret", "guess"), ("X-User", "Ada")]
        assert client.get("/now.json", headers=guessed).status_code == 401
        assert client.get("/now.json", headers=secret | {"X_User": "Ada"}).status_code == 401
        assert "Bob, Ada (may view)" in client.get("/", headers=secret | {"X-User": "Bob, Ada"}).text
        named = client.get("/", headers=[*secret.items(), ("X-User", "Zoë".encode())])  # type: ignore[list-item]
        assert "Zoë (may act)" in named.text


@pytest.mark.parametrize("strips", [True, False])
def test_behind_a_proxy_with_a_prefix_every_link_keeps_it(
    tmp_path: Path, jenkins_server: LocalServer, hivel_server: LocalServer, strips: bool
) -> None:
    settings = SETTINGS + 'prefix = "/tools/hivel/"\nhosts = ["ci.example.test"]\n'
    with running(configured(tmp_path, jenkins_server, hivel_server, settings)) as site, site.client() as client:
        before = "" if strips else "/tools/hivel"
        client.headers.update({"Host": "ci.example.test", "Origin": "https://ci.example.test"})
        page = client.get(f"{before}/")
        assert page.status_code == 200
        links = re.findall(r'(?:href|src|action|hx-get)="([^"]+)"', page.text)  # "" is the page itself
        assert links and all(link.startswith(("/tools/hivel/", "#")) for link in links), links
        style = next(link for link in links if link.endswith(".css"))
        assert client.get(style.removeprefix("/tools/hivel") if strips else style).status_code == 200
        answer = client.post(f"{before}/login", data={"password": PASSWORD, "next": "/now?x=1"})
        assert answer.headers["Location"] == "/tools/hivel/now?x=1"
        assert "Path=/tools/hivel;" in answer.headers["Set-Cookie"] and "Secure" in answer.headers["Set-Cookie"]


def test_static_files_are_kept_by_browsers_for_ever(shared_site: Site) -> None:
    with shared_site.client() as client:
        names = set(re.findall(r'"(/static/[^"]+)"', client.get("/").text))
        assert len(names) == 4
        answers = [client.get(name) for name in names]
        assert {answer.headers["Cache-Control"] for answer in answers} == {"public, max-age=31536000, immutable"}
        assert sum(len(answer.content) for answer in answers) < 60_000


def test_a_new_password_ends_the_sessions_of_the_old_one(site: Site) -> None:
    with site.logged_in(name="Ada") as client:
        (site.agent.folder / "web.password").write_text("another-password\n")
        os.kill(site.process.pid, signal.SIGHUP)
        wait_until(lambda: "Ada (may act)" not in client.get("/").text, "the session has ended")
        assert client.post("/login", data={"password": PASSWORD}).status_code == 403
        assert client.post("/login", data={"password": "another-password"}).status_code == 303
