"""TLS with an authority of one's own, client certificates, proxies, and how many connections there are."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives import serialization

from agent import __version__
from tests.integration.network import Authority, Proxy, Server
from tests.integration.support import REPO, Agent, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from starlette.types import ASGIApp, Receive, Scope, Send

    from agent.sandbox.hivel import LocalHivel
    from agent.sandbox.jenkins import LocalJenkins
    from agent.sandbox.server import LocalServer

JOB = "deploy/shop"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def certificate(authority: Authority) -> Path:
    return authority.issue("127.0.0.1")


@pytest.fixture
def secure_hivel(hivel: LocalHivel, certificate: Path) -> Iterator[Server]:
    with Server(hivel.app, certificate) as server:
        yield server


@pytest.fixture
def secure_jenkins(jenkins: LocalJenkins, certificate: Path) -> Iterator[Server]:
    with Server(jenkins.app, certificate) as server:
        yield server


@pytest.fixture(autouse=True)
def builds(jenkins: LocalJenkins) -> None:
    jenkins.add_job(JOB)
    jenkins.add_builds(JOB, 3, repo=REPO)


def configured(
    folder: Path, *, jenkins: str, hivel: str, hivel_lines: str = "", jenkins_lines: str = "", **delivery: str
) -> Agent:
    """An agent with more lines in [hivel] and in [[jenkins]]."""
    agent = Agent.configured(folder, jenkins=jenkins, hivel=hivel, **delivery)
    text = agent.config.read_text()
    text = text.replace('token_file = "hivel.token"\n', f'token_file = "hivel.token"\n{hivel_lines}\n')
    text = text.replace('token_file = "jenkins.token"\n', f'token_file = "jenkins.token"\n{jenkins_lines}\n')
    agent.config.write_text(text)
    return agent


# ---- TLS to Hivel


def test_hivel_is_trusted_by_the_authority_of_ca_file(
    hivel: LocalHivel, secure_hivel: Server, jenkins_server: LocalServer, authority: Authority, tmp_path: Path
) -> None:
    lines = f'ca_file = "{authority.file}"'
    agent = configured(tmp_path, jenkins=jenkins_server.url, hivel=secure_hivel.url, hivel_lines=lines)
    done = agent.run("once")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(hivel.deployments()) == 3
    assert agent.run("check").returncode == 0


def test_hivel_is_trusted_by_the_authorities_of_the_system(
    hivel: LocalHivel, secure_hivel: Server, jenkins_server: LocalServer, authority: Authority, tmp_path: Path
) -> None:
    agent = configured(tmp_path, jenkins=jenkins_server.url, hivel=secure_hivel.url)
    assert agent.run("once", SSL_CERT_FILE=str(authority.file)).returncode == 0
    assert len(hivel.deployments()) == 3


def test_an_unknown_authority_of_hivel_pauses_and_says_what_to_do(
    hivel: LocalHivel, secure_hivel: Server, jenkins_server: LocalServer, authority: Authority, tmp_path: Path
) -> None:
    agent = configured(tmp_path, jenkins=jenkins_server.url, hivel=secure_hivel.url)
    assert agent.run("once").returncode == 1
    status = agent.json("status")
    assert status["delivery"]["state"] == "paused"
    assert "CERTIFICATE_VERIFY_FAILED" in status["delivery"]["reason"]
    assert "set [hivel] ca_file" in status["delivery"]["reason"]
    assert {event["attempts"] for event in agent.json("queue", "list")} == {0}
    assert "[hivel] ca_file" in agent.run("check").stdout
    assert hivel.requests() == []
    assert agent.run("once", SSL_CERT_FILE=str(authority.file)).returncode == 0
    assert {d.times_posted for d in hivel.deployments()} == {1}


def test_the_certificate_must_be_of_the_host_that_is_asked(
    hivel: LocalHivel, jenkins_server: LocalServer, authority: Authority, tmp_path: Path
) -> None:
    with Server(hivel.app, authority.issue("hivel.example.test")) as server:
        lines = f'ca_file = "{authority.file}"'
        agent = configured(tmp_path, jenkins=jenkins_server.url, hivel=server.url, hivel_lines=lines)
        assert agent.run("once").returncode == 1
    assert "IP address mismatch" in agent.json("status")["delivery"]["reason"]
    assert hivel.requests() == []


@pytest.mark.parametrize("apart", [False, True], ids=["in one file", "key apart"])
def test_hivel_sees_the_client_certificate(
    hivel: LocalHivel, jenkins_server: LocalServer, authority: Authority, certificate: Path, tmp_path: Path,
    apart: bool,
) -> None:  # fmt: skip
    with Server(hivel.app, certificate, clients_of=authority.file) as server:
        lines = f'ca_file = "{authority.file}"'
        agent = configured(tmp_path, jenkins=jenkins_server.url, hivel=server.url, hivel_lines=lines)
        agent.run("once")
        assert hivel.requests() == []
        assert agent.json("status")["events"]["pending"] == 3
        if apart:
            files = authority.issue_apart("client.example.test")
            lines += f'\nclient_certificate = "{files[0]}"\nclient_key = "{files[1]}"'
        else:
            lines += f'\nclient_certificate = "{authority.issue("client.example.test")}"'
        agent = configured(tmp_path, jenkins=jenkins_server.url, hivel=server.url, hivel_lines=lines)
        wait_until(lambda: agent.run("once").returncode == 0 and len(hivel.deployments()) == 3, "all is delivered")


# ---- TLS to Jenkins


@pytest.mark.parametrize("how", ["ca_file", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
def test_jenkins_is_trusted_by_a_file_of_its_own_or_by_the_system(
    secure_jenkins: Server, hivel: LocalHivel, hivel_server: LocalServer, authority: Authority, tmp_path: Path,
    how: str,
) -> None:  # fmt: skip
    lines = f'ca_file = "{authority.file}"' if how == "ca_file" else ""
    agent = configured(tmp_path, jenkins=secure_jenkins.url, hivel=hivel_server.url, jenkins_lines=lines)
    done = agent.run("once", **({} if how == "ca_file" else {how: str(authority.file)}))
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(hivel.deployments()) == 3


def test_the_file_of_the_configuration_is_what_counts_for_jenkins(
    secure_jenkins: Server, hivel_server: LocalServer, authority: Authority, tmp_path: Path
) -> None:
    """REQUESTS_CA_BUNDLE in the environment, for something else, changes nothing."""
    other = Authority(tmp_path / "other")
    lines = f'ca_file = "{authority.file}"'
    agent = configured(tmp_path, jenkins=secure_jenkins.url, hivel=hivel_server.url, jenkins_lines=lines)
    assert agent.run("once", REQUESTS_CA_BUNDLE=str(other.file)).returncode == 0


def test_an_unknown_authority_of_jenkins_is_told_with_what_to_do(
    jenkins: LocalJenkins, secure_jenkins: Server, hivel_server: LocalServer, tmp_path: Path
) -> None:
    agent = configured(tmp_path, jenkins=secure_jenkins.url, hivel=hivel_server.url)
    assert agent.run("once").returncode == 1
    [controller] = agent.json("status")["controllers"]
    assert "CERTIFICATE_VERIFY_FAILED" in controller["last_error"]
    assert "set [[jenkins]] ca_file" in controller["last_error"]
    assert jenkins.requests == []


@pytest.mark.parametrize("apart", [False, True], ids=["in one file", "key apart"])
def test_jenkins_sees_the_client_certificate(
    jenkins: LocalJenkins, hivel: LocalHivel, hivel_server: LocalServer, authority: Authority, certificate: Path,
    tmp_path: Path, apart: bool,
) -> None:  # fmt: skip
    with Server(jenkins.app, certificate, clients_of=authority.file) as server:
        lines = f'ca_file = "{authority.file}"'
        agent = configured(tmp_path, jenkins=server.url, hivel=hivel_server.url, jenkins_lines=lines)
        assert agent.run("once").returncode == 1
        assert jenkins.requests == []
        if apart:
            files = authority.issue_apart("client.example.test")
            lines += f'\nclient_certificate = "{files[0]}"\nclient_key = "{files[1]}"'
        else:
            lines += f'\nclient_certificate = "{authority.issue("client.example.test")}"'
        agent = configured(tmp_path, jenkins=server.url, hivel=hivel_server.url, jenkins_lines=lines)
        done = agent.run("once")
        assert done.returncode == 0, done.stdout + done.stderr
    assert len(hivel.deployments()) == 3


# ---- files that are none


@pytest.mark.parametrize("table", ["hivel", "jenkins[0]"])
@pytest.mark.parametrize("key", ["ca_file", "client_certificate"])
@pytest.mark.parametrize("content", [None, "this is no certificate\n"], ids=["missing", "no PEM"])
def test_a_wrong_file_is_told_by_its_name_and_key(
    jenkins_server: LocalServer, hivel_server: LocalServer, tmp_path: Path, table: str, key: str, content: str | None
) -> None:
    file = tmp_path / "some.pem"
    if content is not None:
        file.write_text(content)
    lines = {"hivel_lines" if table == "hivel" else "jenkins_lines": f'{key} = "some.pem"'}
    agent = configured(tmp_path, jenkins=jenkins_server.url, hivel=hivel_server.url, **lines)
    for verb in ("run", "once", "check"):
        done = agent.run(verb)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert re.search(rf"{re.escape(str(agent.config))}:\d+: {re.escape(table)}\.{key}: ", done.stderr)
        assert str(file) in done.stderr


def test_a_key_with_a_passphrase_is_an_error_and_nobody_is_asked_for_it(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue_apart("client.example.test")
    plain = serialization.load_pem_private_key(key.read_bytes(), None)
    secret = serialization.BestAvailableEncryption(b"passphrase")
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    key.write_bytes(plain.private_bytes(pem, form, secret))
    lines = f'client_certificate = "{certificate}"\nclient_key = "{key}"'
    agent = configured(tmp_path, jenkins="http://127.0.0.1:1", hivel="https://127.0.0.1:1", hivel_lines=lines)
    done = agent.run("check", "--config-only")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and str(key) in done.stderr, done.stderr
    assert "the key has a passphrase; remove it: openssl pkey -in KEY -out KEY" in done.stderr


# ---- proxies


def test_https_goes_through_the_tunnel_of_https_proxy(
    jenkins: LocalJenkins, hivel: LocalHivel, authority: Authority, tmp_path: Path
) -> None:
    """Only the proxy knows these hosts."""
    trust = f'ca_file = "{authority.file}"'
    with (
        Server(hivel.app, authority.issue("hivel.example.test")) as hivel_server,
        Server(jenkins.app, authority.issue("jenkins.example.test")) as jenkins_server,
        Proxy({"hivel.example.test:443": hivel_server.port, "jenkins.example.test:443": jenkins_server.port}) as proxy,
    ):
        agent = configured(
            tmp_path, jenkins="https://jenkins.example.test", hivel="https://hivel.example.test",
            hivel_lines=trust, jenkins_lines=trust,
        )  # fmt: skip
        done = agent.run("once", HTTPS_PROXY=proxy.url)
        assert done.returncode == 0, done.stdout + done.stderr
        assert agent.run("check", HTTPS_PROXY=proxy.url).returncode == 0
    assert len(hivel.deployments()) == 3
    assert set(proxy.requests) == {"CONNECT hivel.example.test:443", "CONNECT jenkins.example.test:443"}


@pytest.mark.parametrize("jenkins_scheme", ["http", "https"])
def test_a_proxy_may_be_spoken_to_over_tls_with_the_same_authorities(
    jenkins: LocalJenkins, hivel: LocalHivel, authority: Authority, certificate: Path, tmp_path: Path,
    jenkins_scheme: str,
) -> None:  # fmt: skip
    trust = f'ca_file = "{authority.file}"'
    own = authority.issue("jenkins.example.test") if jenkins_scheme == "https" else None
    name = "jenkins.example.test" + (":443" if own else "")
    with (
        Server(hivel.app, authority.issue("hivel.example.test")) as hivel_server,
        Server(jenkins.app, own) as jenkins_server,
        Proxy(
            {"hivel.example.test:443": hivel_server.port, name: jenkins_server.port}, certificate=certificate
        ) as proxy,
    ):
        agent = configured(
            tmp_path, jenkins=f"{jenkins_scheme}://jenkins.example.test", hivel="https://hivel.example.test",
            hivel_lines=trust, jenkins_lines=trust,
        )  # fmt: skip
        done = agent.run("once", ALL_PROXY=proxy.url)
        assert done.returncode == 0, done.stdout + done.stderr
    assert len(hivel.deployments()) == 3
    assert any("jenkins" in request for request in proxy.requests)


def test_http_goes_through_http_proxy(
    hivel: LocalHivel, hivel_server: LocalServer, jenkins_server: LocalServer, tmp_path: Path
) -> None:
    hosts = {"hivel.example.test": hivel_server.port, "jenkins.example.test": jenkins_server.port}
    with Proxy(hosts) as proxy:
        agent = configured(tmp_path, jenkins="http://jenkins.example.test", hivel="http://hivel.example.test")
        done = agent.run("once", HTTP_PROXY=proxy.url, http_proxy=proxy.url)
        assert done.returncode == 0, done.stdout + done.stderr
    assert len(hivel.deployments()) == 3
    assert any(r.startswith("POST http://hivel.example.test/api/hooks") for r in proxy.requests)
    assert any(r.startswith("GET http://jenkins.example.test/api/json") for r in proxy.requests)


def test_no_proxy_hosts_are_asked_directly(
    hivel: LocalHivel, hivel_server: LocalServer, jenkins_server: LocalServer, tmp_path: Path
) -> None:
    with Proxy({}) as proxy:
        agent = configured(tmp_path, jenkins=jenkins_server.url, hivel=hivel_server.url)
        done = agent.run("once", HTTP_PROXY=proxy.url, http_proxy=proxy.url, NO_PROXY="127.0.0.1,example.test")
        assert done.returncode == 0, done.stdout + done.stderr
    assert len(hivel.deployments()) == 3
    assert proxy.requests == []


def test_a_proxy_that_wants_credentials_pauses_and_says_so(
    hivel: LocalHivel, jenkins_server: LocalServer, authority: Authority, tmp_path: Path
) -> None:
    with Proxy({}, refuse_with="407 Proxy Authentication Required") as proxy:
        agent = configured(tmp_path, jenkins=jenkins_server.url, hivel="https://hivel.example.test")
        done = agent.run("once", HTTPS_PROXY=proxy.url)
        assert done.returncode == 1
    delivery = agent.json("status")["delivery"]
    assert delivery["state"] == "paused"
    assert "HTTP 407" in delivery["reason"] and "check HTTPS_PROXY" in delivery["reason"]


def test_the_credentials_of_a_proxy_are_shown_by_nothing(jenkins_server: LocalServer, tmp_path: Path) -> None:
    with Proxy({}, refuse_with="403 Forbidden") as proxy:
        secret = proxy.url.replace("http://", "http://someone:hunter2@")
        agent = configured(tmp_path, jenkins=jenkins_server.url, hivel="https://hivel.example.test")
        done = agent.run("once", HTTPS_PROXY=secret)
        checked = agent.run("check", HTTPS_PROXY=secret)
    delivery = agent.json("status")["delivery"]
    assert delivery["state"] == "outage" and "no connection through the proxy: 403" in delivery["reason"]
    for text in (done.stdout, done.stderr, checked.stdout, checked.stderr, str(delivery)):
        assert "hunter2" not in text


def test_a_proxy_that_cannot_be_used_is_a_wrong_configuration(jenkins_server: LocalServer, tmp_path: Path) -> None:
    agent = configured(tmp_path, jenkins=jenkins_server.url, hivel="https://hivel.example.test")
    done = agent.run("run", HTTPS_PROXY="socks5://127.0.0.1:1080")
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert "HTTPS_PROXY" in done.stderr and "SOCKS" in done.stderr


@pytest.mark.parametrize("value", ["127.0.0.1,[::1]", "fd00::/8,127.0.0.0/8", "http://127.0.0.1 [::1]:8080 fd00::/8"])
def test_addresses_and_networks_of_ipv6_in_no_proxy_are_understood(
    hivel: LocalHivel, hivel_server: LocalServer, jenkins_server: LocalServer, tmp_path: Path, value: str
) -> None:
    """httpx fails on each of these when it reads the environment itself."""
    with Proxy({}) as proxy:
        agent = configured(tmp_path, jenkins=jenkins_server.url, hivel=hivel_server.url)
        done = agent.run("once", HTTP_PROXY=proxy.url, ALL_PROXY=proxy.url, NO_PROXY=value)
        assert (done.returncode, done.stderr.count("Traceback")) == (0, 0), done.stderr
        assert agent.run("check", HTTP_PROXY=proxy.url, NO_PROXY=value).returncode == 0
    assert len(hivel.deployments()) == 3
    assert proxy.requests == []


def test_both_clients_give_the_proxy_the_same_credentials(
    hivel: LocalHivel, jenkins: LocalJenkins, authority: Authority, tmp_path: Path
) -> None:
    """With characters for which the two libraries have encodings of their own."""
    trust = f'ca_file = "{authority.file}"'
    with (
        Server(hivel.app, authority.issue("hivel.example.test")) as hivel_server,
        Server(jenkins.app) as jenkins_server,
        Proxy({"hivel.example.test:443": hivel_server.port, "jenkins.example.test": jenkins_server.port}) as proxy,
    ):
        agent = configured(
            tmp_path, jenkins="http://jenkins.example.test", hivel="https://hivel.example.test", hivel_lines=trust
        )
        secret = proxy.url.replace("http://", "http://ю:hunter2%40@")
        done = agent.run("once", ALL_PROXY=secret)
        assert done.returncode == 0, done.stdout + done.stderr
    assert {request.split()[0] for request in proxy.requests} == {"CONNECT", "GET"}
    assert set(proxy.credentials) == {"Basic " + base64.b64encode("ю:hunter2@".encode()).decode()}


def test_check_says_the_way_to_each_and_what_in_the_environment_means_nothing(
    jenkins_server: LocalServer, tmp_path: Path
) -> None:
    agent = configured(tmp_path, jenkins=jenkins_server.url, hivel="https://hivel.example.test")
    environment = {
        "HTTPS_PROXY": "http://someone:hunter2@proxy.example.test",
        "HTTP_PROXY": "http://proxy.example.test",
    }
    checked = agent.run("check", "--offline", **environment, NO_PROXY="10.0.0.0/99,127.0.0.0/8")
    assert checked.returncode == 0
    shown = " ".join(checked.stdout.split())
    assert "hivel: requests go through the proxy http://proxy.example.test:80 (HTTPS_PROXY)" in shown
    assert "jenkins main: requests go directly (NO_PROXY: '127.0.0.0/8')" in shown
    assert "NO_PROXY: '10.0.0.0/99' is not a host, domain, address or network; it is ignored" in shown
    assert "hunter2" not in shown
    assert "requests go" not in agent.run("check", "--offline").stdout


def test_check_names_a_proxy_that_cannot_be_used_and_the_rest_is_looked_at(
    jenkins_server: LocalServer, tmp_path: Path
) -> None:
    agent = configured(tmp_path, jenkins=jenkins_server.url, hivel="https://hivel.example.test")
    for options in ((), ("--offline",)):
        checked = agent.run("check", *options, HTTPS_PROXY="socks5://someone:hunter2@proxy.example.test")
        assert checked.returncode == 1
        assert "hivel: HTTPS_PROXY names a proxy that cannot be used: SOCKS is not supported" in checked.stdout
        assert "hunter2" not in checked.stdout + checked.stderr
        assert ("job(s) visible" in checked.stdout) == (not options)


@pytest.mark.parametrize("verb", [("run",), ("once",), ("preview",), ("backfill", "--since", "1d")])
def test_no_verb_ends_with_a_traceback_for_a_proxy_that_cannot_be_used(
    jenkins_server: LocalServer, tmp_path: Path, verb: tuple[str, ...]
) -> None:
    agent = configured(tmp_path, jenkins=jenkins_server.url, hivel=jenkins_server.url)
    done = agent.run(*verb, HTTP_PROXY="http://someone:hunter2@proxy:http")
    assert done.returncode == 2, done.stderr
    assert "HTTP_PROXY names a proxy that cannot be used: its port is not a number" in done.stderr
    assert "Traceback" not in done.stderr and "hunter2" not in done.stderr
    assert agent.run("status", HTTP_PROXY="nonsense:").returncode in (0, 1)  # what asks nobody needs no proxy


@pytest.mark.parametrize(
    ("roots", "words"),
    [
        ('"deploy", "deploy"', "warning jenkins main: roots: deploy is listed twice"),
        ('"deploy", "deploy/prod"', "warning jenkins main: roots: deploy/prod is inside deploy"),
        (
            '"deploy", "gone"',
            "warning jenkins main: root gone: HTTP 404 from /job/gone/api/json: it does not exist",
        ),
        ('"deploy", "deploy/shop"', "roots: deploy/shop is inside deploy; remove one of them"),
        (
            '"deploy", "lonely"',
            "warning jenkins main: root lonely: it is a job, not a folder; set [[jenkins]] roots to the folder that",
        ),
        ('"gone"', "error jenkins main: root gone: HTTP 404"),
        ('"deploy"', "1 job(s) visible in deploy, 1 of them match a rule"),
    ],
)
def test_check_says_what_is_wrong_with_roots(
    jenkins: LocalJenkins,
    jenkins_server: LocalServer,
    hivel_server: LocalServer,
    tmp_path: Path,
    roots: str,
    words: str,
) -> None:
    jenkins.add_job("lonely")
    lines = f"roots = [{roots}]"
    agent = configured(tmp_path, jenkins=jenkins_server.url, hivel=hivel_server.url, jenkins_lines=lines)
    done = agent.run("check")
    assert words in " ".join(done.stdout.split())
    assert done.returncode == int(words.startswith("error"))


def test_jenkins_is_told_nothing_from_netrc(tmp_path: Path, hivel_server: LocalServer, jenkins: LocalJenkins) -> None:
    seen = Headers(jenkins.app)
    with Server(seen) as server:
        agent = configured(tmp_path, jenkins=server.url, hivel=hivel_server.url)
        text = agent.config.read_text()
        agent.config.write_text(text.replace('username = "hivel-agent"\ntoken_file = "jenkins.token"\n', ""))
        (tmp_path / ".netrc").write_text("default login someone password hunter2\n")
        (tmp_path / ".netrc").chmod(0o600)
        agent.run("once", HOME=str(tmp_path))
    assert seen.values("authorization") == {None}


# ---- who asks


class Headers:
    """Notes the headers of requests on their way to an application."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._seen: list[dict[bytes, bytes]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self._seen.append(dict(scope["headers"]))
        await self._app(scope, receive, send)

    def values(self, name: str) -> set[str | None]:
        found = {headers.get(name.encode()) for headers in self._seen}
        return {None if value is None else value.decode("latin-1") for value in found}


@pytest.mark.parametrize(
    ("lines", "agent_name"),
    [
        ("", f"hivel-jenkins-agent/{__version__}"),
        ('[http]\ncontact = "platform@example.com"', f"hivel-jenkins-agent/{__version__} (platform@example.com)"),
    ],
)
def test_jenkins_and_hivel_are_told_who_asks(
    jenkins: LocalJenkins, hivel: LocalHivel, tmp_path: Path, lines: str, agent_name: str
) -> None:
    to_jenkins, to_hivel = Headers(jenkins.app), Headers(hivel.app)
    with Server(to_jenkins) as jenkins_server, Server(to_hivel) as hivel_server:
        agent = Agent.configured(tmp_path, jenkins=jenkins_server.url, hivel=hivel_server.url, extra=lines)
        done = agent.run("once")
        assert done.returncode == 0, done.stdout + done.stderr
    assert (to_jenkins.values("user-agent"), to_hivel.values("user-agent")) == ({agent_name}, {agent_name})


# ---- how many


@pytest.mark.parametrize("concurrency", [1, 3, 20])
def test_connections_to_hivel_are_reused_and_never_more_than_concurrency(
    jenkins: LocalJenkins, hivel: LocalHivel, secure_hivel: Server, jenkins_server: LocalServer, authority: Authority,
    tmp_path: Path, concurrency: int,
) -> None:  # fmt: skip
    jenkins.add_builds(JOB, 497, repo=REPO)
    lines = f'ca_file = "{authority.file}"'
    agent = configured(tmp_path, jenkins=jenkins_server.url, hivel=secure_hivel.url, hivel_lines=lines)
    agent.config.write_text(agent.config.read_text() + f"concurrency = {concurrency}\n")
    assert agent.run("once").returncode == 0
    assert len(hivel.deployments()) == 500
    assert secure_hivel.accepted <= concurrency
    assert secure_hivel.most_open <= concurrency


def test_polls_of_jenkins_reuse_their_connection(
    jenkins: LocalJenkins, secure_jenkins: Server, hivel: LocalHivel, hivel_server: LocalServer, authority: Authority,
    tmp_path: Path,
) -> None:  # fmt: skip
    lines = f'ca_file = "{authority.file}"'
    agent = configured(tmp_path, jenkins=secure_jenkins.url, hivel=hivel_server.url, jenkins_lines=lines)
    process = agent.start()
    try:
        wait_until(lambda: len(hivel.deployments()) == 3, "the builds have arrived")
        wait_until(lambda: len(jenkins.requests) >= 15, "it polled some times")
        assert secure_jenkins.accepted == 1
    finally:
        process.terminate()
        process.wait(120)
