"""A process that uses an outbox; started several times by ``test_many_at_once``.

It announces itself, and does what each line of its input says: ``open FILE`` opens an outbox, ``report FILE NAME N``
enqueues N events one by one. Each line is answered with how many milliseconds the longest single step
took, or with what went wrong.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from agent import event as events
from agent.outbox.connection import OutboxError
from agent.outbox.store import Entry, Outbox
from agent.status import Status
from agent.times import Clock


def report(outbox: Outbox, job: str, number: int) -> None:
    """One event, as a build in this job reports it."""
    started_at = outbox.clock.now_ms() - 1_000
    name = events.build_deployment_id("main", job, number)
    event = events.completed(
        deployment_id=name, status=Status.SUCCESS, started_at=started_at, ended_at=started_at + 1_000,
        repo_url="https://github.example.test/acme/shop", environment="production", branch="main",
    )  # fmt: skip
    outbox.enqueue([Entry(name, started_at, None, event)])


def obey(verb: str, file: str, *rest: str) -> float:
    """Returns the seconds of the longest step."""
    started, longest = time.monotonic(), 0.0
    with Outbox(Path(file), Clock()) as outbox:
        outbox.counts()
        longest = time.monotonic() - started
        if verb == "report":
            job, count = rest
            for number in range(1, int(count) + 1):
                started = time.monotonic()
                report(outbox, job, number)
                longest = max(longest, time.monotonic() - started)
    return longest


def main() -> None:
    """Until there is nothing more to do."""
    _answer("here")
    for line in sys.stdin:
        try:
            _answer(f"{obey(*line.split()) * 1000:.0f}")
        except OutboxError as error:
            _answer(f"{type(error).__name__}: {error}")


def _answer(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
