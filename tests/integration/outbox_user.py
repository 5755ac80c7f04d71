"""A process that uses an outbox; started several times by ``test_many_at_once``.

It announces itself, and does what each line of its input says: ``open FILE`` opens an outbox, ``report FILE JOB N``
enqueues an event as a process does that was started for it. Each line is answered with how many milliseconds it took,
or with what went wrong.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from agent.model import event as events
from agent.model.status import Status
from agent.model.times import Clock
from agent.outbox.values import OutboxError
from agent.outbox.sqlite.store import Entry, Outbox


def report(outbox: Outbox, job: str, number: int) -> None:
    """One event, as a build in this job reports it."""
    started_at = outbox.clock.now_ms() - 1_000
    name = events.build_deployment_id("main", job, number)
    event = events.completed(
        deployment_id=name, status=Status.SUCCESS, started_at=started_at, ended_at=started_at + 1_000,
        repo_url="https://github.example.test/acme/shop", environment="production", branch="main",
    )  # fmt: skip
    outbox.enqueue([Entry(name, started_at, None, event)])


def obey(verb: str, file: str, *rest: str) -> None:
    """One line."""
    with Outbox(Path(file), Clock()) as outbox:
        if verb == "report":
            report(outbox, rest[0], int(rest[1]))
        else:
            outbox.counts()


def main() -> None:
    """Until there is nothing more to do."""
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
