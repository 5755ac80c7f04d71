"""The pages at a Unix socket, as a reverse proxy reaches them."""

from __future__ import annotations

import os
import re
import socket
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx
import pytest

from agent.model.sockets import bind_file
from tests.integration.support import wait_until
from tests.web.conftest import PASSWORD, SETTINGS, configured

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agent.sandbox.server import LocalServer
    from tests.integration.support import Agent

PROXY = 'hosts = ["ci.test"]\nproxy = { user_header = "X-User", operators = ["Ada"] }\n'


def _settings(file: Path) -> str:
    return re.sub(r"(?m)^listen = .*$", f'listen = "unix:{file}"', SETTINGS)


@contextmanager
def _listening(agent: Agent, file: Path) -> Iterator[httpx.Client]:
    process = agent.start("run")
    try:
        wait_until(lambda: "event=started" in agent.log() or process.poll() is not None, "the daemon has started")
        transport = httpx.HTTPTransport(uds=str(file))
        with httpx.Client(transport=transport, base_url="http://localhost", timeout=120) as client:
            yield client
    finally:
        process.terminate()
        assert process.wait(120) == 0


def test_only_owner_and_group_can_connect_and_the_file_is_gone_at_the_end(
    tmp_path: Path, jenkins_server: LocalServer, hivel_server: LocalServer
) -> None:
    file = tmp_path / "web.sock"
    with _listening(configured(tmp_path, jenkins_server, hivel_server, _settings(file)), file) as client:
        assert stat.S_IMODE(file.stat().st_mode) == 0o660
        assert client.get("/").status_code == 200
        assert client.get("/", headers={"Host": "evil.test"}).status_code == 421
        assert client.get("/now.json", headers={"X-User": "Ada"}).status_code == 401  # without [web.proxy]
        headers = {"Origin": "http://localhost"}
        assert client.post("/login", data={"password": PASSWORD}, headers=headers).status_code == 303
        assert client.get("/now.json").status_code == 200
    assert not file.exists()


def test_over_the_socket_the_header_of_the_proxy_counts_without_a_secret(
    tmp_path: Path, jenkins_server: LocalServer, hivel_server: LocalServer
) -> None:
    file = tmp_path / "web.sock"
    agent = configured(tmp_path, jenkins_server, hivel_server, _settings(file) + PROXY)
    with _listening(agent, file) as client:
        client.headers["Host"] = "ci.test"
        assert client.get("/now.json").status_code == 401
        assert "Ada (may act)" in client.get("/", headers={"X-User": "Ada"}).text
        assert "Bob (may view)" in client.get("/", headers={"X-User": "Bob"}).text
        twice = [("X-User", "Ada"), ("X-User", "Bob")]
        assert client.get("/now.json", headers=twice).status_code == 401
        # A form of another site, which the proxy passes on with the name of its user.
        answer = client.post("/controllers/poll", headers={"X-User": "Ada", "Origin": "https://evil.test"})
        assert answer.status_code == 403


def test_a_secret_is_required_over_the_socket_too_if_it_is_set(
    tmp_path: Path, jenkins_server: LocalServer, hivel_server: LocalServer
) -> None:
    file = tmp_path / "web.sock"
    (tmp_path / "proxy.secret").write_text("shared-with-the-proxy\n")
    proxy = 'proxy = { user_header = "X-User", secret_file = "proxy.secret" }\n'
    agent = configured(tmp_path, jenkins_server, hivel_server, _settings(file) + proxy)
    with _listening(agent, file) as client:
        assert client.get("/now.json", headers={"X-User": "Ada"}).status_code == 401
        secret = {"X-Hivel-Agent-Proxy-Secret": "shared-with-the-proxy"}
        assert client.get("/now.json", headers={"X-User": "Ada"} | secret).status_code == 200


def test_failed_logins_are_counted_by_the_address_that_the_proxy_reports(
    tmp_path: Path, jenkins_server: LocalServer, hivel_server: LocalServer
) -> None:
    """The proxy adds its own client at the end; before it is what that client has pretended."""
    file = tmp_path / "web.sock"
    agent = configured(tmp_path, jenkins_server, hivel_server, _settings(file))

    def log_in(client: httpx.Client, forwarded: str) -> int:
        headers = {"Origin": "http://localhost", "X-Forwarded-For": forwarded}
        return client.post("/login", data={"password": "wrong"}, headers=headers).status_code

    with _listening(agent, file) as client:
        assert [log_in(client, f"198.51.100.{n}, 192.0.2.1") for n in range(6)] == [403] * 5 + [429]
        assert log_in(client, "192.0.2.2") == 403
    assert agent.log().count("client=192.0.2.1") == 5
    assert "198.51.100" not in agent.log()


def test_the_file_of_a_process_that_was_killed_is_replaced(
    tmp_path: Path, jenkins_server: LocalServer, hivel_server: LocalServer
) -> None:
    file = tmp_path / "web.sock"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(file))
    with _listening(configured(tmp_path, jenkins_server, hivel_server, _settings(file)), file) as client:
        assert client.get("/").status_code == 200


@pytest.mark.parametrize("what", ["a listening process", "a plain file", "no folder"])
def test_a_socket_that_cannot_be_used_disables_the_pages_and_nothing_else(
    tmp_path: Path, jenkins_server: LocalServer, hivel_server: LocalServer, what: str
) -> None:
    file = tmp_path / ("missing/web.sock" if what == "no folder" else "web.sock")
    agent = configured(tmp_path, jenkins_server, hivel_server, _settings(file))
    with socket.socket(socket.AF_UNIX) as other:
        if what == "a listening process":
            other.bind(str(file))
            other.listen()
        elif what == "a plain file":
            file.write_text("kept")
        with _listening(agent, file):
            agent.wait_for_log("cannot listen")
            assert str(file) in agent.log()
        if what == "a listening process":
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(file))
    if what == "a plain file":
        assert file.read_text() == "kept"
    if what == "no folder":
        assert "does not exist" in agent.run("check", "--offline").stdout


def test_the_file_inherits_the_group_of_a_setgid_folder(tmp_path: Path) -> None:
    """A group of the proxy, to which the service itself does not belong."""
    folder = tmp_path / "run"
    folder.mkdir()
    if os.geteuid() == 0:
        os.chown(folder, -1, 12_345)
    folder.chmod(0o2750)
    with bind_file(folder / "web.sock"):
        assert (folder / "web.sock").stat().st_gid == folder.stat().st_gid


@pytest.mark.parametrize("path", ["web.sock", "", "/run/" + "x" * 103, "/run/a\\u0000b"])
def test_a_path_that_the_kernel_does_not_take_is_refused(
    tmp_path: Path, jenkins_server: LocalServer, hivel_server: LocalServer, path: str
) -> None:
    agent = configured(tmp_path, jenkins_server, hivel_server, f'listen = "unix:{path}"\n')
    checked = agent.run("check", "--config-only")
    assert checked.returncode == 2
    assert "is not a Unix socket; write its full path" in checked.stdout + checked.stderr


def test_without_a_socket_the_header_of_a_proxy_needs_a_secret(
    tmp_path: Path, jenkins_server: LocalServer, hivel_server: LocalServer
) -> None:
    checked = configured(tmp_path, jenkins_server, hivel_server, SETTINGS + PROXY).run("check", "--config-only")
    assert checked.returncode == 2
    assert "or let [web] listen at a Unix socket" in checked.stdout + checked.stderr
