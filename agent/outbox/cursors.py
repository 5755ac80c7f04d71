"""How far the poller has read, stored beside the events so that both are committed together."""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields
from typing import TYPE_CHECKING

from agent.model.event import build_deployment_id

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agent.outbox.sqlite.store import Outbox


@dataclass(frozen=True)
class JobCursor:
    """Numbers below ``next_build_number`` were read, but for the job's open builds.

    ``looked_at`` is the latest that Jenkins' clock has shown, in its answers or as the start of a build that was read:
    no build below started later. ``newest_number`` and ``newest_started_at`` name the newest build that was seen.
    Times are UTC milliseconds.
    """

    full_name: str
    next_build_number: int
    looked_at: int
    newest_number: int | None = None
    newest_started_at: int | None = None


@dataclass(frozen=True)
class OpenBuild:
    """A build that is not final yet. ``seen`` False: Jenkins gave the number away but shows no build.

    ``waiting_since`` (UTC ms): since when it is neither running nor final; None while it runs. ``started_at`` (UTC ms)
    by Jenkins' clock; None as long as no build was shown.
    """

    number: int
    seen: bool
    first_seen_at: int
    waiting_since: int | None = None
    started_at: int | None = None


@dataclass(frozen=True)
class Missed:
    """Numbers of a job whose builds were gone before they could be read. ``noted_at``: UTC milliseconds."""

    controller: str
    full_name: str
    builds: int
    newest_number: int
    noted_at: int


@dataclass(frozen=True)
class ControllerState:
    """What ``status`` shows of a controller. Times are UTC milliseconds.

    ``report_from``: builds that ended before are history; None until the first poll was complete.
    ``clock_ahead_ms``: how far its clock was ahead of this machine's when it last answered; negative: behind.
    """

    name: str
    state: str
    since: int
    report_from: int | None = None
    polled_at: int | None = None
    jobs: int | None = None
    last_error: str | None = None
    clock_ahead_ms: int | None = None


_JOB = ", ".join(field.name for field in fields(JobCursor))
_OPEN = ", ".join(field.name for field in fields(OpenBuild))
_STATE = ", ".join(field.name for field in fields(ControllerState))
# The event of a build (?1), or one of several: with a part or, of a number used again, the start behind its id.
_REPORTED = (
    "SELECT 1 FROM events WHERE started_at = ?2 AND (deployment_id = ?1"
    " OR (deployment_id > ?1 || ':' AND deployment_id < ?1 || ';')"
    " OR (deployment_id > ?1 || '@' AND deployment_id < ?1 || 'A')) LIMIT 1"
)
_MISSED = ", ".join(field.name for field in fields(Missed))


class Cursors:
    """The cursors of one controller."""

    def __init__(self, outbox: Outbox, controller: str) -> None:
        self._outbox = outbox
        self._controller = controller

    def jobs(self) -> dict[str, JobCursor]:
        """All jobs by full name."""
        found = self._outbox.connection.execute(
            f"SELECT {_JOB} FROM jobs WHERE controller = ?",  # noqa: S608
            (self._controller,),
        ).fetchall()
        return {row[0]: JobCursor(*row) for row in found}

    def job(self, full_name: str) -> JobCursor | None:
        """One job; None: it was never seen."""
        found = self._outbox.connection.execute(
            f"SELECT {_JOB} FROM jobs WHERE controller = ? AND full_name = ?",  # noqa: S608
            (self._controller, full_name),
        ).fetchone()
        return None if found is None else JobCursor(*found)

    def save_jobs(self, cursors: Iterable[JobCursor]) -> None:
        """Insert or replace."""
        with self._outbox.transaction() as connection:
            connection.executemany(
                f"INSERT OR REPLACE INTO jobs (controller, {_JOB}) VALUES (?, ?, ?, ?, ?, ?)",  # noqa: S608
                [(self._controller, *astuple(cursor)) for cursor in cursors],
            )

    def rename(self, former: JobCursor, full_name: str) -> None:
        """The job of that cursor has another name now: the cursor goes, its events are known under the old name."""
        with self._outbox.transaction() as connection:
            gone = connection.execute(
                "DELETE FROM jobs WHERE controller = ? AND full_name = ? AND newest_started_at IS ?",
                (self._controller, former.full_name, former.newest_started_at),
            )
            if gone.rowcount:  # else another job took the name, and was stored already
                connection.execute(
                    "DELETE FROM open_builds WHERE controller = ? AND full_name = ?",
                    (self._controller, former.full_name),
                )
            connection.execute(
                "INSERT OR IGNORE INTO former_names (controller, full_name, former_name)"
                " SELECT ?1, ?2, ?3 UNION SELECT ?1, ?2, former_name FROM former_names"
                " WHERE controller = ?1 AND full_name = ?3",
                (self._controller, full_name, former.full_name),
            )

    def former_names(self, full_name: str) -> list[str]:
        """Under which names builds of this job may have been reported before."""
        found = self._outbox.connection.execute(
            "SELECT former_name FROM former_names WHERE controller = ? AND full_name = ?",
            (self._controller, full_name),
        ).fetchall()
        return [row[0] for row in found]

    def reported(self, full_name: str, number: int, started_at: int) -> bool:
        """Whether a build of this job, under this or a former name, was reported and is still in the outbox."""
        names = (full_name, *self.former_names(full_name))
        ids = (build_deployment_id(self._controller, name, number) for name in names)
        return any(self._outbox.connection.execute(_REPORTED, (each, started_at)).fetchone() for each in ids)

    def open_builds(self) -> dict[str, list[OpenBuild]]:
        """The open builds of all jobs by full name."""
        found = self._outbox.connection.execute(
            f"SELECT full_name, {_OPEN} FROM open_builds WHERE controller = ? ORDER BY number",  # noqa: S608
            (self._controller,),
        ).fetchall()
        builds: dict[str, list[OpenBuild]] = {}
        for full_name, number, seen, *times in found:
            build = OpenBuild(number, bool(seen), *times)
            builds.setdefault(full_name, []).append(build)
        return builds

    def save_open_builds(self, full_name: str, builds: Iterable[OpenBuild]) -> None:
        """Replace the open builds of one job."""
        with self._outbox.transaction() as connection:
            connection.execute(
                "DELETE FROM open_builds WHERE controller = ? AND full_name = ?", (self._controller, full_name)
            )
            connection.executemany(
                f"INSERT INTO open_builds (controller, full_name, {_OPEN}) VALUES (?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
                [(self._controller, full_name, *astuple(build)) for build in builds],
            )

    def add_missed(self, full_name: str, builds: int, newest_number: int) -> None:
        """Count builds that were gone before they could be read."""
        with self._outbox.transaction() as connection:
            connection.execute(
                f"INSERT INTO missed ({_MISSED}) VALUES (?, ?, ?, ?, ?) ON CONFLICT (controller, full_name) DO UPDATE"  # noqa: S608
                " SET builds = builds + excluded.builds, newest_number = excluded.newest_number,"
                " noted_at = excluded.noted_at",
                (self._controller, full_name, builds, newest_number, self._outbox.clock.now_ms()),
            )

    def state(self) -> ControllerState | None:
        """None: this controller was never polled."""
        return next((s for s in controller_states(self._outbox) if s.name == self._controller), None)

    def save_state(self, state: ControllerState) -> None:
        """Insert or replace."""
        with self._outbox.transaction() as connection:
            connection.execute(
                f"INSERT OR REPLACE INTO controllers ({_STATE}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
                astuple(state),
            )


def controller_states(outbox: Outbox) -> list[ControllerState]:
    """All controllers that were ever polled."""
    found = outbox.connection.execute(f"SELECT {_STATE} FROM controllers ORDER BY name").fetchall()  # noqa: S608
    return [ControllerState(*row) for row in found]


def open_build_counts(outbox: Outbox) -> dict[str, int]:
    """How many builds are followed, by controller."""
    found = outbox.connection.execute("SELECT controller, count(*) FROM open_builds GROUP BY controller").fetchall()
    return {controller: int(n) for controller, n in found}


def missed_builds(outbox: Outbox) -> list[Missed]:
    """Jobs with builds that were gone before they could be read, the latest first."""
    found = outbox.connection.execute(f"SELECT {_MISSED} FROM missed ORDER BY noted_at DESC").fetchall()  # noqa: S608
    return [Missed(*row) for row in found]
