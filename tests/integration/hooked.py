"""The daemon with its listener for webhooks."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

import httpx

from tests import webhooks
from tests.integration.support import Agent, wait_until

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from agent.sandbox.server import LocalServer

HOOKS = (
    '[webhooks]\nlisten = "127.0.0.1:0"\n'
    '[[webhook]]\nname = "github"\nplatform = "github"\nsecret_file = "github.secret"\n'
    '[[webhook.rule]]\nname = "Deploy"\nenvironment = "staging"\n'
    '[[webhook]]\nname = "gitlab"\nplatform = "gitlab"\nsecret_file = "gitlab.secret"\n'
)


class Hooked(Agent):
    """An agent that can be started and killed, and that GitHub and GitLab send webhooks to."""

    process: subprocess.Popen[str]

    @classmethod
    def opened(cls, folder: Path, *, jenkins: LocalServer, hivel: LocalServer, extra: str = HOOKS) -> Hooked:
        agent = cls(Agent.configured(folder, jenkins=jenkins, hivel=hivel, extra=extra).folder)
        for name, secret in (("github", webhooks.SECRET), ("gitlab", webhooks.SIGNING_TOKEN)):
            (folder / f"{name}.secret").write_text(f"{secret}\n")
            (folder / f"{name}.secret").chmod(0o600)
        return agent

    def begin(self) -> subprocess.Popen[str]:
        """Start the daemon and wait until it works."""
        log = self.folder / "agent.log"
        before = self.log().count("event=started") if log.exists() else 0
        process = self.start()
        wait_until(lambda: self.log().count("event=started") > before, "the daemon has started")
        return process

    @property
    def url(self) -> str:
        """The address of the webhooks, as the daemon that was started last logged it."""
        return str(re.findall(r"what=webhooks url=(\S+)", self.log())[-1])

    def post(self, hook: str, content: Any, headers: dict[str, str]) -> httpx.Response:
        return httpx.post(
            f"{self.url}/v1/hooks/{hook}", content=webhooks.encoded(content), headers=headers, timeout=120
        )

    def github(self, content: Any, event: str, **options: Any) -> httpx.Response:
        return self.post("github", content, webhooks.github(content, event, **options))

    def gitlab(self, content: Any, event: str, *, delivery: str) -> httpx.Response:
        now = time.time_ns() // 1_000_000
        return self.post("gitlab", content, webhooks.gitlab(content, event, delivery=delivery, now_ms=now))


def deployment_status(**changes: Any) -> dict[str, Any]:
    """A deployment of GitHub Actions that ended a minute ago."""
    now = time.time_ns() // 1_000_000
    return webhooks.body(
        "github/deployment_status.actions",
        **{
            "deployment__created_at": webhooks.at(now - 600_000),
            "check_run__started_at": webhooks.at(now - 300_000),
            "deployment_status__created_at": webhooks.at(now - 60_000),
        }
        | changes,
    )
