"""What several integration tests need: a clock, a poller in one call, the agent as a process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from agent.config.rules import Options, Pattern, Rule, Template
from agent.deployments.derive import Rules
from agent.ingest.ingest import Ingest
from agent.model.deployment import event_of
from agent.model.event import encode
from agent.model.times import Clock
from agent.sources.jenkins.client import JenkinsClient
from agent.sources.jenkins.poller import Poller, PollReport

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from agent.config.settings import JenkinsSettings
    from agent.outbox.interface import Outbox
    from agent.sandbox.server import LocalServer

NOON = 1_795_435_200_000  # 2026-11-23T12:00:00Z
REPO = "https://github.example.test/acme/shop.git"


class FakeClock(Clock):
    """Stands still until it is told to go on."""

    def __init__(self, now_ms: int = NOON) -> None:
        self._now_ms = now_ms
        self._monotonic = 1_000.0

    def now_ms(self) -> int:
        return self._now_ms

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, *, ms: int = 0, s: float = 0) -> None:
        """Both clocks go on."""
        step = ms + int(s * 1000)
        self._now_ms += step
        self._monotonic += step / 1000

    def jump(self, *, ms: int) -> None:
        """Only the wall clock is set to another time."""
        self._now_ms += ms


def rule(job: str = "**", environment: str = "{params.ENVIRONMENT}|{job.environment}", **templates: str) -> Rule:
    """A rule as the configuration makes it."""
    pattern = Pattern.parse(job)
    groups = tuple(pattern.expression.groupindex)
    parsed = {key: Template.parse(text, groups) for key, text in templates.items()}
    return Rule(pattern, Template.parse(environment, groups), **parsed)


HOLD_FOR_MS = 3_600_000


def ingest_of(outbox: Outbox, *rules: Rule, controllers: tuple[str, ...] = ("main",)) -> Ingest:
    """The door into the outbox; without rules, every job is a deployment."""
    return Ingest(outbox, Rules(rules or (rule(),), Options(), frozenset(controllers)), HOLD_FOR_MS)


def poll(controller: JenkinsSettings, outbox: Outbox, *rules: Rule) -> PollReport:
    """One poll by a poller that was just started: it knows only what the outbox knows."""
    client = JenkinsClient(controller, outbox.clock)
    try:
        return Poller(controller, client, ingest_of(outbox, *rules, controllers=(controller.name,))).poll()
    finally:
        client.close()


def ids(outbox: Outbox) -> list[str]:
    """The deployment_ids in the outbox in the order in which they were enqueued."""
    return [str(each.deployment_id) for each in outbox.all_deployments()]


def event(outbox: Outbox, deployment_id: str) -> dict[str, Any]:
    """The payload of an event."""
    found = outbox.find(deployment_id)
    assert found is not None and found.content.problem is None, deployment_id
    content: dict[str, Any] = msgspec.json.decode(encode(event_of(deployment_id, found.content)))
    return content


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 120.0) -> None:
    """Wait for something that another process or thread does."""
    deadline = time.monotonic() + seconds
    waiter = __import__("threading").Event()
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain until {what}"
        waiter.wait(0.01)


@dataclass
class Agent:
    """The agent as its user meets it: a folder with a configuration, and a command."""

    folder: Path

    @classmethod
    def configured(
        cls,
        folder: Path,
        *,
        jenkins: LocalServer | str,
        hivel: LocalServer | str,
        extra: str = "",
        web: str = 'listen = ""',
        **changes: str,
    ) -> Agent:
        """Write a configuration: ``extra`` is TOML at its end, ``web`` is that of [web], ``changes`` of [delivery]."""
        agent = cls(folder)
        jenkins_url = jenkins if isinstance(jenkins, str) else jenkins.url
        hivel_url = hivel if isinstance(hivel, str) else hivel.url
        delivery = {"interval": "100ms", "backoff_initial": "100ms", "backoff_max": "500ms", **changes}
        lines = "\n".join(f'{key} = "{value}"' for key, value in delivery.items())
        agent.config.write_text(
            f'[hivel]\nurl = "{hivel_url}"\ntoken_file = "hivel.token"\n\n'
            f'[[jenkins]]\nname = "main"\nurl = "{jenkins_url}"\nusername = "hivel-agent"\n'
            f'token_file = "jenkins.token"\npoll_interval = "200ms"\nsince = "2020-01-01"\n\n'
            f'[outbox]\npath = "outbox.db"\n\n[monitoring]\nlisten = "127.0.0.1:0"\n\n[web]\n{web}\n\n'
            f"[delivery]\n{lines}\n\n{extra}"
        )
        for name in ("hivel.token", "jenkins.token"):
            (folder / name).write_text("sandbox-token\n")
            (folder / name).chmod(0o600)
        return agent

    def store_in(self, url: str | None) -> None:
        """Let the outbox be this database, with leases that expire soon; None: it stays in its file."""
        if url is not None:
            text = self.config.read_text()
            self.config.write_text(text.replace("[outbox]\n", f'[outbox]\nurl = "{url}"\nlease = "1s"\n'))

    @property
    def config(self) -> Path:
        return self.folder / "config.toml"

    @property
    def outbox(self) -> Path:
        return self.folder / "outbox.db"

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "agent", *arguments, "--config", str(self.config)]

    def environment(self) -> dict[str, str]:
        """The tests' environment without what would configure the agent."""
        mine = ("HIVEL_", "JENKINS_", "CREDENTIALS_DIRECTORY", "NOTIFY_", "WATCHDOG_")
        mine += ("SSL_CERT_", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
        return {k: v for k, v in os.environ.items() if not k.startswith(mine) and not k.lower().endswith("_proxy")}

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a verb to its end."""
        return subprocess.run(
            self.command(*arguments),
            capture_output=True, text=True, timeout=240, env=self.environment() | environment, check=False,
        )  # fmt: skip

    def json(self, *arguments: str) -> Any:
        """What a verb prints with ``--json``."""
        done = self.run(*arguments, "--json")
        assert done.stdout, done.stderr
        return msgspec.json.decode(done.stdout)

    def start(self, *arguments: str, by: Sequence[str] = (), **environment: str) -> subprocess.Popen[str]:
        """Start a verb and leave it running; its log is in ``agent.log``. ``by``: a command that starts it."""
        with (self.folder / "agent.log").open("a") as log:
            return subprocess.Popen(
                [*by, *self.command(*(arguments or ("run",)))],
                stdout=log, stderr=log, text=True, env=self.environment() | environment,
            )  # fmt: skip

    def log(self) -> str:
        """What is written so far. A thread of the daemon writes it: a line may come after the answer it belongs to."""
        return (self.folder / "agent.log").read_text()

    def wait_for_log(self, text: str, times: int = 1) -> None:
        """Wait until the log has a text, at least so many times."""
        wait_until(lambda: self.log().count(text) >= times, f"the log says {text!r}, {times} times")
