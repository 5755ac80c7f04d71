"""A daemon with pages, a local Jenkins and a local Hivel."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx
import pytest

from agent.sandbox.hivel import LocalHivel
from agent.sandbox.jenkins import LocalJenkins
from agent.sandbox.server import LocalServer
from tests.integration.conftest import clock, hivel, hivel_server, jenkins, jenkins_server
from tests.integration.support import Agent, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from subprocess import Popen

__all__ = ["clock", "hivel", "hivel_server", "jenkins", "jenkins_server"]

PASSWORD = "correct-horse-battery"
VIEW_PASSWORD = "only-looking-around"
TOKEN = "token-that-may-act"
VIEW_TOKEN = "token-that-may-view"
SECRETS = {
    "web.password": PASSWORD, "web.view-password": VIEW_PASSWORD, "web.token": TOKEN, "web.view-token": VIEW_TOKEN
}  # fmt: skip
SETTINGS = """\
listen = "127.0.0.1:0"
password_file = "web.password"
view_password_file = "web.view-password"
token_file = "web.token"
view_token_file = "web.view-token"
"""


@dataclass(frozen=True)
class Site:
    """The pages of a running daemon."""

    agent: Agent
    url: str
    process: Popen[str]

    def whole_log(self) -> str:
        """Stop the daemon: then nothing of its log is still to be written."""
        self.process.terminate()
        assert self.process.wait(120) == 0
        return self.agent.log()

    def client(self, token: str | None = None) -> httpx.Client:
        """A client that sends a bearer token, or nothing."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return httpx.Client(base_url=self.url, headers=headers, trust_env=False, timeout=120)

    @contextmanager
    def logged_in(self, password: str = PASSWORD, name: str = "") -> Iterator[httpx.Client]:
        """A browser's client with a session."""
        with self.client() as client:
            client.headers["Origin"] = self.url
            answer = client.post("/login", data={"password": password, "name": name})
            assert answer.status_code == 303, answer.text
            yield client


def configured(folder: Path, jenkins_server: LocalServer, hivel_server: LocalServer, web: str = SETTINGS) -> Agent:
    """An agent whose configuration has pages."""
    agent = Agent.configured(
        folder, jenkins=jenkins_server, hivel=hivel_server, web=web, extra='[[deployment]]\njob = "**"\n'
    )
    for name, secret in SECRETS.items():
        (folder / name).write_text(secret + "\n")
        (folder / name).chmod(0o600)
    return agent


@contextmanager
def running(agent: Agent) -> Iterator[Site]:
    """Run the daemon; its pages are reachable in the block."""
    earlier = len(agent.log()) if (agent.folder / "agent.log").exists() else 0
    process: Popen[str] = agent.start("run")
    try:
        wait_until(
            lambda: "what=web url=" in agent.log()[earlier:] or process.poll() is not None, "the pages are there"
        )
        found = re.search(r"what=web url=(http://\S+)", agent.log()[earlier:])
        assert found is not None, agent.log()
        yield Site(agent, found[1], process)
    finally:
        process.terminate()
        process.wait(120)


@contextmanager
def site_of(folder: Path, web: str = SETTINGS) -> Iterator[Site]:
    """One daemon for several tests that change nothing. It has no builds."""
    hivel = LocalHivel()
    with (
        LocalServer(LocalJenkins().app) as jenkins_server,
        LocalServer(hivel.app) as hivel_server,
        running(configured(folder, jenkins_server, hivel_server, web)) as site,
    ):
        yield site
    hivel.close()


@pytest.fixture(scope="module")
def shared_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site_of(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture
def site(tmp_path: Path, jenkins_server: LocalServer, hivel_server: LocalServer) -> Iterator[Site]:
    with running(configured(tmp_path, jenkins_server, hivel_server)) as site:
        yield site
