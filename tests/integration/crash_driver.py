"""The agent's work in a process that kills itself at a chosen point; started by ``test_crash_points``.

It reads how many points to live through from its input, one number a line (0: all of them), and does the whole work in
a child process each time. A point is the moment before or after a COMMIT, or before or after a POST to Hivel. The end
is a real SIGKILL: nothing is rolled back, nothing is closed, nobody is told.
"""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import sys
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlite_utils  # noqa: F401 - imported once, and not by every child
import structlog

from agent.config.file import load
from agent.daemon.once import once
from agent.delivery.hivel import HivelClient
from agent.ingest import replay as replaying
from agent.ingest.ingest import Ingest
from agent.inspect.derived import rules_of
from agent.model.deployment import State
from agent.model.times import Clock
from agent.outbox.engines import engine_of
from agent.outbox.sqlite.connection import PatientConnection
from agent.outbox.values import Filter, Keep

if TYPE_CHECKING:
    from agent.config.settings import Settings
    from agent.delivery.answers import Answer

# A child that lives through the whole work ends with the number of its points.
MOST_POINTS = 250


class Seam:
    """Counts the points that the process comes to, and ends it at one of them."""

    def __init__(self) -> None:
        self.last: int | None = None
        self.count = 0

    def __call__(self) -> None:
        self.count += 1
        if self.count == self.last:
            os.kill(os.getpid(), signal.SIGKILL)


seam = Seam()


class Connection(PatientConnection):
    """May be killed at every commit."""

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        """The statement; a COMMIT between two points."""
        if statement != "COMMIT":
            return super().execute(statement, *values)
        seam()
        done = super().execute(statement, *values)
        seam()
        return done


def install_seam() -> None:
    """Let all commits, statements that commit by themselves, and POSTs of this process pass through the seam."""
    connect, post = sqlite3.connect, HivelClient.post

    def connect_with_seam(*args: Any, **options: Any) -> sqlite3.Connection:
        return connect(*args, **(options | {"factory": Connection}))

    async def post_with_seam(self: HivelClient, body: bytes) -> Answer:
        seam()
        answer = await post(self, body)
        seam()
        return answer

    if find_spec("psycopg") is not None:
        install_seam_in_psycopg()
    sqlite3.connect = connect_with_seam  # type: ignore[assignment]
    HivelClient.post = post_with_seam  # type: ignore[method-assign]


def install_seam_in_psycopg() -> None:
    """The same for PostgreSQL."""
    import psycopg
    from psycopg.pq import TransactionStatus

    class Seamed(psycopg.Connection[Any]):
        def execute(self, sql: Any, *values: Any, **options: Any) -> Any:
            alone = self.info.transaction_status is TransactionStatus.IDLE and not sql.startswith("BEGIN")
            if sql != "COMMIT" and not (alone and _WRITES.search(sql)):
                return super().execute(sql, *values, **options)
            seam()
            done = super().execute(sql, *values, **options)
            seam()
            return done

    psycopg.connect = Seamed.connect  # type: ignore[assignment]


_WRITES = re.compile(r"\b(INSERT|UPDATE|DELETE)\b")


def work(settings: Settings) -> None:
    """What is done between an empty folder and deleted events: poll, deliver, replay, deliver, clean up."""
    clock = Clock()
    poll_and_deliver(settings)
    with closing(engine_of(settings, clock).open()) as outbox:
        ingest = Ingest(outbox, rules_of(settings), settings.hold_for_ms)
        replaying.replay(ingest, replaying.choose(outbox, Filter(states=(State.FAILED,))), "crash test")
    poll_and_deliver(settings)
    with closing(engine_of(settings, clock).open()) as outbox:
        while outbox.prune(Keep(bodies_ms=0, deployments_ms=0, ids_ms=settings.keep_ids_ms)):
            pass


def poll_and_deliver(settings: Settings) -> None:
    """Passes until nothing is pending: what was refused for a moment is due a millisecond later."""
    for _ in range(50):
        if once(settings, Clock()).counts.pending == 0:
            return
    raise AssertionError("events are pending that ought to have been delivered")


def main() -> None:
    """Serve numbers until there are no more."""
    settings = load(Path(sys.argv[1]))
    settings = replace(settings, delivery=replace(settings.delivery, concurrency=1))
    install_seam()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            seam.last = int(line) or None
            work(settings)
            os._exit(seam.count if 0 < seam.count < MOST_POINTS else 255)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
