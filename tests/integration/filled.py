"""An outbox that a test fills without a daemon: what polls, builds and Hivel said, stored as the agent does it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agent.config.file import load
from agent.ingest.ingest import Ingest
from agent.inspect.derived import rules_of
from agent.model import fact as facts
from agent.model.build import Build, Checkout
from agent.model.deployment import State
from agent.model.fact import Fact, Report
from agent.model.keys import Run, jenkins_run
from agent.model.times import Clock
from agent.outbox.values import Settlement
from tests.integration.support import REPO, Agent

if TYPE_CHECKING:
    from pathlib import Path

    from agent.ingest.ingest import Accepted
    from agent.outbox.sqlite.engine import SqliteOutbox
    from agent.outbox.values import Claimed

NOBODY = "http://127.0.0.1:9"
MINUTE = 60_000
HOUR = 60 * MINUTE
NOW = Clock().now_ms()
RULES = '[[deployment]]\njob = "deploy/**"\n\n[[deployment]]\njob = "lab/**"\n'


class Filled:
    """An agent's outbox, and what comes in and goes out of it."""

    def __init__(self, agent: Agent, outbox: SqliteOutbox) -> None:
        self.agent = agent
        self.outbox = outbox
        self.settings = load(agent.config)
        self.controller = self.settings.controllers[0].name

    def run(self, job: str = "deploy/shop", number: int = 1) -> Run:
        return jenkins_run(self.controller, job, number)

    def accept(self, *new: Fact) -> Accepted:
        return Ingest(self.outbox, rules_of(self.settings), self.settings.hold_for_ms).accept(list(new))

    def built(self, job: str = "deploy/shop", number: int = 1, *, checkout: bool = True, **fields: Any) -> Accepted:
        """A poll read a finished build; without a checkout no event can be made of it."""
        checkouts = (Checkout((REPO,), ("refs/remotes/origin/main",), "c" * 40),) if checkout else ()
        times = {"started_at": NOW - HOUR, "ended_at": NOW - MINUTE}
        build = Build(**{"result": "SUCCESS", "checkouts": checkouts, **times, **fields})
        return self.accept(facts.final(self.run(job, number), build, at=build.ended_at))

    def reported(self, job: str = "deploy/shop", number: int = 1, *, at: int = NOW, **fields: Any) -> Accepted:
        """The build said something of itself."""
        said = Report(**{"provider": "jenkins", "status": "SUCCESS", "repo_url": REPO, "branch": "main", **fields})
        return self.accept(facts.report(self.run(job, number), said, source="emit", at=at, principal="shop"))

    def settle(self, state: State = State.DELIVERED, **changes: Any) -> None:
        """Whatever is due was sent, and Hivel said so."""
        self.settle_as_claimed(*self.outbox.claim(100), state=state, **changes)

    def settle_as_claimed(self, *sent: Claimed, state: State = State.DELIVERED, **changes: Any) -> None:
        """These were sent as they were claimed."""
        common = {"counts_as_attempt": True, "at": NOW, "duration_ms": 12, "http_status": 200, "verdict": state.value}
        fields = {**common, "answer": "said", **changes}
        self.outbox.settle([Settlement(claimed=claimed, state=state, **fields) for claimed in sent])

    def states(self) -> dict[str, str]:
        return {each["deployment_id"]: each["state"] for each in self.agent.json("queue", "list")}


def configured(folder: Path, *, name: str | None = "main", extra: str = "") -> Agent:
    agent = Agent.configured(folder, jenkins=NOBODY, hivel=NOBODY, extra=RULES + extra)
    text = agent.config.read_text()
    agent.config.write_text(text if name is not None else text.replace('name = "main"\n', ""))
    return agent
