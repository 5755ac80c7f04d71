"""The daemon with all its doors open, as the tests of the doors meet it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import httpx

from tests.integration.support import Agent, wait_until

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from agent.sandbox.server import LocalServer

INTAKE_TOKEN = "intake-token-of-a-test"
TEAM_TOKEN = "token-of-the-payments-team"
RULES = '[[deployment]]\njob = "deploy/**"\n'


class Doors(Agent):
    """An agent that can be started and killed, with its spool folder and its intake."""

    @classmethod
    def opened(
        cls, folder: Path, *, jenkins: LocalServer | str, hivel: LocalServer | str, poll_interval: str = "200ms",
        hook: str = "", intake: str = 'token_file = "intake.token"\n',
    ) -> Doors:  # fmt: skip
        """``hook`` and ``intake`` are lines of these tables."""
        extra = f'{RULES}\n[hook]\nspool = "spool"\n{hook}\n[intake]\nlisten = "127.0.0.1:0"\n{intake}'
        agent = cls(Agent.configured(folder, jenkins=jenkins, hivel=hivel, extra=extra).folder)
        text = agent.config.read_text().replace('poll_interval = "200ms"', f'poll_interval = "{poll_interval}"')
        agent.config.write_text(text)
        agent.spool.mkdir()
        for name, token in (("intake.token", INTAKE_TOKEN), ("payments.token", TEAM_TOKEN)):
            (folder / name).write_text(f"{token}\n")
            (folder / name).chmod(0o600)
        return agent

    @property
    def spool(self) -> Path:
        return self.folder / "spool"

    def begin(self) -> subprocess.Popen[str]:
        """Start the daemon and wait until it works."""
        log = self.folder / "agent.log"
        before = self.log().count("event=started") if log.exists() else 0
        process = self.start()
        wait_until(lambda: self.log().count("event=started") > before, "the daemon has started")
        return process

    @property
    def intake(self) -> str:
        """The intake's address, as the daemon that was started last told it."""
        return re.findall(r"what=intake url=(\S+)", self.log())[-1]

    def post(self, report: Any, path: str = "/v1/events", token: str | None = INTAKE_TOKEN) -> httpx.Response:
        """Report over HTTP; ``report`` may be bytes."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        body = {"content": report} if isinstance(report, bytes) else {"json": report}
        return httpx.post(self.intake + path, headers=headers, timeout=120, **body)
