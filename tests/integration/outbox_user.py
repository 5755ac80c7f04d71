"""A process that uses an outbox; started several times by ``test_many_at_once``.

It announces itself, and does what each line of its input says: ``open FILE`` opens an outbox, ``report FILE JOB N``
enqueues an event as a process does that was started for it. Each line is answered with how many milliseconds it took,
or with what went wrong.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import structlog

from agent.deployments.derive import Rules
from agent.ingest.ingest import Ingest
from agent.model import fact as facts
from agent.model.fact import Report
from agent.model.keys import jenkins_run
from agent.model.times import Clock
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.outbox.values import OutboxError


def report(outbox: SqliteOutbox, job: str, number: int) -> None:
    """One deployment, as a build in this job reports it."""
    now = outbox.clock.now_ms()
    said = Report(
        provider="jenkins", status="SUCCESS", started_at=now - 1_000, ended_at=now, environment="production",
        repo_url="https://github.example.test/acme/shop", branch="main",
    )  # fmt: skip
    fact = facts.report(jenkins_run("main", job, number), said, source="emit", at=now)
    Ingest(outbox, Rules(()), hold_for_ms=0).accept([fact])


def obey(verb: str, file: str, *rest: str) -> None:
    """One line."""
    with SqliteOutbox(Path(file), Clock()) as outbox:
        if verb == "report":
            report(outbox, rest[0], int(rest[1]))
        else:
            outbox.counts()


def main() -> None:
    """Until there is nothing more to do."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    _answer("here")
    for line in sys.stdin:
        started = time.monotonic()
        try:
            obey(*line.split())
        except OutboxError as error:
            _answer(f"{type(error).__name__}: {error}")
        else:
            _answer(f"{(time.monotonic() - started) * 1000:.0f}")


def _answer(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
