"""How far the poller has read, stored beside the events so that both are committed together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agent.outbox.store import Outbox


@dataclass(frozen=True)
class JobCursor:
    """Numbers below ``next_build_number`` were read, but for the job's open builds.

    ``newest_number`` and ``newest_started_at`` (UTC ms) name the newest build that was seen.
    """

    full_name: str
    next_build_number: int
    newest_number: int | None = None
    newest_started_at: int | None = None


@dataclass(frozen=True)
class OpenBuild:
    """A build that is not final yet. ``seen`` False: Jenkins gave the number away but shows no build.

    ``waiting_since`` (UTC ms): since when it is neither running nor final; None while it runs.
    """

    number: int
    seen: bool
    waiting_since: int | None = None


@dataclass(frozen=True)
class ControllerState:
    """What ``status`` shows of a controller. Times are UTC milliseconds.

    ``report_from``: builds that ended before are history; None until the first poll was complete.
    """

    name: str
    state: str
    since: int
    report_from: int | None = None
    polled_at: int | None = None
    jobs: int | None = None
    last_error: str | None = None


class Cursors:
    """The cursors of one controller."""

    def __init__(self, outbox: Outbox, controller: str) -> None:
        self._outbox = outbox
        self._controller = controller

    def jobs(self) -> dict[str, JobCursor]:
        """All jobs by full name."""
        found = self._outbox.connection.execute(
            "SELECT full_name, next_build_number, newest_number, newest_started_at FROM jobs WHERE controller = ?",
            (self._controller,),
        ).fetchall()
        return {row[0]: JobCursor(*row) for row in found}

    def save_jobs(self, cursors: Iterable[JobCursor]) -> None:
        """Insert or replace."""
        with self._outbox.transaction() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO jobs (controller, full_name, next_build_number, newest_number,"
                " newest_started_at) VALUES (?, ?, ?, ?, ?)",
                [
                    (self._controller, c.full_name, c.next_build_number, c.newest_number, c.newest_started_at)
                    for c in cursors
                ],
            )

    def open_builds(self) -> dict[str, list[OpenBuild]]:
        """The open builds of all jobs by full name."""
        found = self._outbox.connection.execute(
            "SELECT full_name, number, seen, waiting_since FROM open_builds WHERE controller = ? ORDER BY number",
            (self._controller,),
        ).fetchall()
        builds: dict[str, list[OpenBuild]] = {}
        for full_name, number, seen, waiting_since in found:
            builds.setdefault(full_name, []).append(OpenBuild(number, bool(seen), waiting_since))
        return builds

    def save_open_builds(self, full_name: str, builds: Iterable[OpenBuild]) -> None:
        """Replace the open builds of one job."""
        with self._outbox.transaction() as connection:
            connection.execute(
                "DELETE FROM open_builds WHERE controller = ? AND full_name = ?", (self._controller, full_name)
            )
            connection.executemany(
                "INSERT INTO open_builds (controller, full_name, number, seen, waiting_since) VALUES (?, ?, ?, ?, ?)",
                [(self._controller, full_name, b.number, int(b.seen), b.waiting_since) for b in builds],
            )

    def state(self) -> ControllerState | None:
        """None: this controller was never polled."""
        return next((s for s in controller_states(self._outbox) if s.name == self._controller), None)

    def save_state(self, state: ControllerState) -> None:
        """Insert or replace."""
        with self._outbox.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO controllers (name, state, since, report_from, polled_at, jobs, last_error)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    state.name,
                    state.state,
                    state.since,
                    state.report_from,
                    state.polled_at,
                    state.jobs,
                    state.last_error,
                ),
            )


def controller_states(outbox: Outbox) -> list[ControllerState]:
    """All controllers that were ever polled."""
    found = outbox.connection.execute(
        "SELECT name, state, since, report_from, polled_at, jobs, last_error FROM controllers ORDER BY name"
    ).fetchall()
    return [ControllerState(*row) for row in found]


def open_build_counts(outbox: Outbox) -> dict[str, int]:
    """How many builds are followed, by controller."""
    found = outbox.connection.execute("SELECT controller, count(*) FROM open_builds GROUP BY controller").fetchall()
    return {controller: int(n) for controller, n in found}
