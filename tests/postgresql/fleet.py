"""Several agents as processes on one PostgreSQL, with local controllers and a local Hivel."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

import httpx

from agent.sandbox.hivel import LocalHivel
from agent.sandbox.server import LocalServer
from tests.integration.support import REPO, Agent, wait_until
from tests.postgresql.controllers import TOKEN, Controllers

if TYPE_CHECKING:
    from pathlib import Path
    from subprocess import Popen

    from agent.sandbox.jenkins import LocalJenkins
    from tests.postgresql.cluster import Cluster

JOB = "deploy/shop"
# The clock of the fleet in tests. Nothing waits for the usual 15 s.
LEASE_S = 1.5
CONFIG = """
[hivel]
url = "{hivel}"
token_file = "hivel.token"

{jenkins}
[outbox]
path = "outbox.db"
url = "{url}"
lease = "{lease}"

[monitoring]
listen = "127.0.0.1:0"

[intake]
listen = "127.0.0.1:0"
token_file = "hivel.token"

{web}
[delivery]
interval = "{delivery_interval}"
timeout = "{delivery_timeout}"
backoff_initial = "100ms"
backoff_max = "500ms"
"""
REPORT = {
    "provider": "gitlab_ci", "run": "42", "environment": "production", "status": "success",
    "repo_url": "https://gitlab.example.test/acme/shop", "branch": "main",
}  # fmt: skip
JENKINS = """
[[jenkins]]
name = "{name}"
url = "{url}"
username = "{user}"
token_file = "jenkins.token"
poll_interval = "{poll_interval}"
since = "2020-01-01"
"""


@dataclass
class Running:
    """An agent and its process. ``user``: as whom this process polls."""

    agent: Agent
    process: Popen[str]
    user: str

    @property
    def name(self) -> str:
        return self.agent.folder.name

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=120)

    def url(self, what: str) -> str:
        for line in self.agent.log().splitlines():
            if f"what={what} " in line and "url=" in line:
                return line.partition("url=")[2].split()[0]
        raise AssertionError(self.agent.log())

    def report(self) -> None:
        """Send the report to the intake, which accepts it."""
        answer = httpx.post(
            f"{self.url('intake')}/v1/events", json=REPORT, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=120
        )
        assert answer.status_code == 202, answer.text

    def ready(self) -> dict[str, Any]:
        answer = httpx.get(f"{self.url('monitoring')}/readyz", timeout=120)
        content: dict[str, Any] = answer.json()
        return content


@dataclass
class Changed(Agent):
    """An agent that another module starts, in place of ``agent``, with arguments of its own."""

    module: tuple[str, ...] = ()

    def command(self, *arguments: str) -> list[str]:
        command = super().command(*arguments)
        at = command.index("agent")
        return [*command[:at], *self.module, *command[at + 1 :]]


@dataclass
class Fleet:
    """``url``: how the agents reach the database; a proxy can be in between.

    ``extra``: TOML at the configuration's end; ``web``: the pages; ``secrets``: files that these name.
    """

    folder: Path
    cluster: Cluster
    database: str
    url: str
    controllers: int = 2
    lease_s: float = LEASE_S
    poll_interval: str = "200ms"
    delivery_interval: str = "100ms"
    delivery_timeout: str = "10s"
    extra: str = ""
    web: str = '[web]\nlisten = ""\n'
    secrets: dict[str, str] = field(default_factory=dict)
    hivel: LocalHivel = field(default_factory=LocalHivel)
    running: list[Running] = field(default_factory=list)

    def __enter__(self) -> Fleet:
        self._stack = ExitStack()
        self._starts = count(1)
        self.hivel_server = self._stack.enter_context(LocalServer(self.hivel.app))
        self._stack.callback(self.hivel.close)
        self.front = Controllers(f"jenkins-{number}" for number in range(self.controllers))
        self._front_url = self._stack.enter_context(LocalServer(self.front)).url
        for jenkins in self.jenkins.values():
            jenkins.add_job(JOB)
        return self

    @property
    def jenkins(self) -> dict[str, LocalJenkins]:
        return self.front.jenkins

    def __exit__(self, *_: object) -> None:
        for each in self.running:
            each.thaw()
            each.kill()
        self._stack.close()

    def start(
        self, name: str, *, wait: bool = True, url: str | None = None, module: tuple[str, ...] = (), **environment: str
    ) -> Running:
        """``url``: how this agent reaches the database. ``module``: what starts it, see :class:`Changed`."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        agent = Changed(folder, module) if module else Agent(folder)
        user = f"{name}-{next(self._starts)}"
        if (log := folder / "agent.log").exists():
            log.rename(folder / f"before-{user}.log")
        agent.config.write_text(self._configuration(user, url or self.url))
        for file in ("hivel.token", "jenkins.token", *self.secrets):
            (folder / file).write_text(f"{self.secrets.get(file, TOKEN)}\n")
            (folder / file).chmod(0o600)
        running = Running(agent, agent.start(**environment), user)
        self.running.append(running)
        if wait:
            wait_until(
                lambda: "event=started" in agent.log() or running.process.poll() is not None, f"{name} has started"
            )
            assert running.process.poll() is None, agent.log()
        return running

    def _configuration(self, user: str, database: str) -> str:
        tables = [
            JENKINS.format(name=name, url=f"{self._front_url}/{name}", user=user, poll_interval=self.poll_interval)
            for name in self.jenkins
        ]
        common = CONFIG.format(
            hivel=self.hivel_server.url,
            jenkins="".join(tables),
            url=database,
            web=self.web,
            lease=f"{round(self.lease_s * 1000)}ms",
            delivery_interval=self.delivery_interval,
            delivery_timeout=self.delivery_timeout,
        )
        return common + self.extra

    # ---- what is where

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        return self.cluster.execute(sql, self.database)

    def holders(self) -> dict[str, int | None]:
        """The process that polls each controller, None if nobody does."""
        found = self.execute(
            "SELECT controller, pid FROM leases LEFT JOIN agents ON id = holder AND expires_at > now_ms()"
        )
        return dict(found)

    def polled_by(self, *agents: Running) -> bool:
        """Whether these agents, each at least one controller, poll everything."""
        holders = set(self.holders().values())
        return len(self.holders()) == self.controllers and holders == {each.process.pid for each in agents}

    def settle(self, *agents: Running) -> None:
        wait_until(lambda: self.polled_by(*agents), f"{[each.name for each in agents]} poll everything")

    def build(self, times: int = 1) -> int:
        """Builds on every controller; returns how many."""
        for jenkins in self.jenkins.values():
            jenkins.add_builds(JOB, times, repo=REPO, every=1_000)
        return times * len(self.jenkins)

    def delivered(self) -> list[str]:
        return [each.event.deployment_id for each in self.hivel.deployments()]

    def expect_delivered(self, times: int) -> None:
        """Exactly these many different deployments, each accepted once."""
        wait_until(lambda: len(self.delivered()) >= times, f"{times} deployments are delivered")
        found = self.delivered()
        assert len(found) == len(set(found)) == times

    def log_fences(self) -> None:
        """From now on each transaction of a poll is logged, in the order in which they got their locks."""
        self.execute(
            "CREATE TABLE fences (n bigserial PRIMARY KEY, controller text, epoch bigint);"
            "CREATE OR REPLACE FUNCTION holds_lease(name text, agent uuid, number bigint) RETURNS boolean"
            " LANGUAGE plpgsql AS $$ BEGIN PERFORM 1 FROM leases WHERE controller = name AND holder = agent"
            " AND epoch = number AND expires_at > now_ms() FOR KEY SHARE; IF NOT FOUND THEN RETURN false; END IF;"
            " INSERT INTO fences (controller, epoch) VALUES (name, number); RETURN true; END $$"
        )

    def assert_epochs_grow(self) -> int:
        """No transaction of an earlier holder came after one of a later holder; returns how many there were."""
        rows = self.execute("SELECT controller, epoch FROM fences ORDER BY n")
        newest: dict[str, int] = {}
        for controller, epoch in rows:
            assert epoch >= newest.get(controller, 0), (controller, epoch, newest)
            newest[controller] = epoch
        return len(rows)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
