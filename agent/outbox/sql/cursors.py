"""How far the polls of each controller have read. Committed together with the facts."""

from __future__ import annotations

from dataclasses import astuple, fields, replace
from typing import TYPE_CHECKING, Any

from agent.model.keys import JENKINS, Project
from agent.outbox.sql.base import upsert
from agent.outbox.sql.endings import Endings
from agent.outbox.values import ControllerState, JobCursor, JobError, Missed, OpenBuild, WantedBuild

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from agent.model.keys import Run
    from agent.outbox.values import Progress, Renamed


def _columns(kind: Any) -> list[str]:
    return [field.name for field in fields(kind)]


_JOB, _OPEN, _STATE, _MISSED, _ERROR = (
    ", ".join(_columns(kind)) for kind in (JobCursor, OpenBuild, ControllerState, Missed, JobError)
)
_OF_JOBS = ("controller", *_columns(JobCursor))
_SAVE_STATE = upsert("controllers", "name", _columns(ControllerState))


class Cursors(Endings):
    """See :class:`agent.outbox.interface.Cursors`."""

    # ---- jobs

    def jobs(self, controller: str) -> dict[str, JobCursor]:
        """All cursors by full name."""
        found = self._all(f"SELECT {_JOB} FROM jobs WHERE controller = ?", (controller,))  # noqa: S608
        return {row[0]: _cursor(row) for row in found}

    def job(self, controller: str, full_name: str) -> JobCursor | None:
        """The cursor of one job; None if the poller never saw the job."""
        found = self._one(
            f"SELECT {_JOB} FROM jobs WHERE {self._of_job}",  # noqa: S608
            (controller, full_name),
        )
        return None if found is None else _cursor(found)

    def open_builds(self, controller: str) -> dict[str, list[OpenBuild]]:
        """The open builds of all jobs, by full name."""
        found = self._all(
            f"SELECT full_name, {_OPEN} FROM open_builds WHERE controller = ? ORDER BY full_name, number",  # noqa: S608
            (controller,),
        )
        builds: dict[str, list[OpenBuild]] = {}
        for full_name, number, is_seen, *times in found:
            builds.setdefault(full_name, []).append(OpenBuild(number, bool(is_seen), *times))
        return builds

    def wanted_builds(self, controller: str) -> list[WantedBuild]:
        """Builds that sent a report and that the poller has not read yet, oldest first."""
        found = self._all(
            "SELECT full_name, number, since FROM wanted_builds WHERE controller = ? ORDER BY since, full_name, number",
            (controller,),
        )
        return [WantedBuild(*row) for row in found]

    def want_builds(self, controller: str, builds: Sequence[tuple[str, int]]) -> None:
        """Make the poller read these builds (job, number), unless they are open already."""
        now = self.clock.now_ms()
        with self._writing():
            self._connection.executemany(
                "INSERT INTO wanted_builds (controller, full_name, number, since) SELECT ?, ?, ?, ? WHERE NOT EXISTS"  # noqa: S608
                f" (SELECT 1 FROM open_builds WHERE {self._of_job} AND number = ?)"
                " ON CONFLICT DO NOTHING",
                [(controller, full_name, number, now, controller, full_name, number) for full_name, number in builds],
            )

    def job_errors(self, controller: str | None = None) -> dict[str, JobError]:
        """Jobs that could not be read, by full name. ``controller`` None: those of all controllers."""
        where, values = ("", ()) if controller is None else (" WHERE controller = ?", (controller,))
        found = self._all(f"SELECT {_ERROR} FROM job_errors{where} ORDER BY full_name", values)  # noqa: S608
        return {row[0]: JobError(*row) for row in found}

    # ---- progress

    def save_progress(self, progress: Progress) -> None:
        """Store how far a poll has read, in one transaction (the caller's, if there is one)."""
        controller = progress.controller
        with self._writing():
            self._save_names(controller, progress.renamed, progress.begun)
            self._connection.executemany(
                upsert("jobs", self._job_key, _OF_JOBS),
                [(controller, *_row(cursor)) for cursor in progress.cursors],
            )
            self._save_open_builds(controller, progress.open_builds)
            self._add_missed(controller, progress.missed)
            self._connection.executemany(
                f"DELETE FROM wanted_builds WHERE {self._of_job} AND number = ?",  # noqa: S608
                [(controller, wanted.full_name, wanted.number) for wanted in progress.no_longer_wanted],
            )
            self._save_errors(controller, progress.errors)
            for full_name, ended in progress.ended.items():
                self._save_endings(controller, full_name, ended)

    def _save_names(self, controller: str, renamed: Iterable[Renamed], begun: Iterable[str]) -> None:
        """Two jobs may have swapped names, so all old rows are removed before the new ones are inserted."""
        moved = {each.full_name: self._endings(controller, each.former.full_name) for each in renamed
                 if self._rename(controller, each)}  # fmt: skip
        left = {each.former.full_name for each in renamed if each.full_name in moved}
        self._delete_endings(controller, {*left, *moved, *begun})
        for full_name, endings in moved.items():
            self._insert_endings(controller, full_name, endings)

    def _rename(self, controller: str, renamed: Renamed) -> bool:
        """Remove the cursor and record ``former`` as a former name of the project.

        False if another job has taken the former name and is stored already.
        """
        former = renamed.former
        key = (controller, former.full_name)
        gone = self._connection.execute(
            f"DELETE FROM jobs WHERE {self._of_job} AND coalesce(newest_started_at, -1) = ?",  # noqa: S608
            (*key, -1 if former.newest_started_at is None else former.newest_started_at),
        ).rowcount
        if gone:
            self._connection.execute(f"DELETE FROM open_builds WHERE {self._of_job}", key)  # noqa: S608
            self._connection.execute(f"DELETE FROM job_errors WHERE {self._of_job}", key)  # noqa: S608
        names = [Project(JENKINS, controller, name) for name in (renamed.full_name, former.full_name)]
        ids = self._made_project_ids(names)
        new_id, former_id = (ids[name] for name in names)
        former_ids = self._all("SELECT former_id FROM former_names WHERE project_id = ?", (former_id,))
        self._connection.executemany(
            "INSERT INTO former_names (project_id, former_id) VALUES (?, ?) ON CONFLICT DO NOTHING",
            [(new_id, each) for (each,) in ((former_id,), *former_ids) if each != new_id],
        )
        return gone > 0

    def _save_open_builds(self, controller: str, builds: Mapping[str, Sequence[OpenBuild]]) -> None:
        self._connection.executemany(
            f"DELETE FROM open_builds WHERE {self._of_job}",  # noqa: S608
            [(controller, full_name) for full_name in builds],
        )
        self._connection.executemany(
            f"INSERT INTO open_builds (controller, full_name, {_OPEN}) VALUES (?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
            [(controller, full_name, *_row(build)) for full_name, of_job in builds.items() for build in of_job],
        )

    def _add_missed(self, controller: str, missed: Mapping[str, tuple[int, int]]) -> None:
        now = self.clock.now_ms()
        self._connection.executemany(
            f"INSERT INTO missed ({_MISSED}) VALUES (?, ?, ?, ?, ?) ON CONFLICT ({self._job_key}) DO UPDATE"  # noqa: S608
            " SET builds = missed.builds + excluded.builds, newest_number = excluded.newest_number,"
            " noted_at = excluded.noted_at",
            [(controller, full_name, builds, newest, now) for full_name, (builds, newest) in missed.items()],
        )

    def _save_errors(self, controller: str, errors: Mapping[str, JobError | None]) -> None:
        self._connection.executemany(
            f"DELETE FROM job_errors WHERE {self._of_job}",  # noqa: S608
            [(controller, full_name) for full_name in errors],
        )
        self._connection.executemany(
            f"INSERT INTO job_errors (controller, {_ERROR}) VALUES (?, ?, ?, ?, ?)",  # noqa: S608
            [(controller, *astuple(error)) for error in errors.values() if error is not None],
        )

    # ---- names, and what was reported

    def former_names(self, project: Project) -> list[Project]:
        """Other names under which builds of this project may be stored."""
        return self._names([project])[project][1:]

    def was_reported(self, run: Run, started_at: int) -> bool:
        """Whether a deployment exists for the build of this run, under the current or a former name of its project."""
        ids = self._project_ids(self._names([run.project])[run.project])
        return any(
            self._one(
                f"SELECT 1 FROM deployments WHERE project_id = ? AND {self._named('run')}"  # noqa: S608
                " AND attempt = ?"
                " AND coalesce(build_started_at, started_at) = ? LIMIT 1",
                (project_id, run.number, run.attempt, started_at),
            )
            for project_id in ids.values()
        )

    # ---- controllers

    def controller(self, name: str) -> ControllerState | None:
        """The state of one controller; None if it was never polled."""
        found = self._one(f"SELECT {_STATE} FROM controllers WHERE name = ?", (name,))  # noqa: S608
        return None if found is None else ControllerState(*found)

    def save_controller(self, state: ControllerState) -> None:
        """Insert or replace."""
        with self._writing():
            self._connection.execute(_SAVE_STATE, astuple(state))

    def controllers(self) -> list[ControllerState]:
        """All controllers that were ever polled, by name."""
        found = self._all(f"SELECT {_STATE} FROM controllers ORDER BY name")  # noqa: S608
        return [ControllerState(*row) for row in found]

    def open_build_counts(self) -> dict[str, int]:
        """The number of open builds by controller."""
        return dict(self._all("SELECT controller, count(*) FROM open_builds GROUP BY controller"))

    def missed(self) -> list[Missed]:
        """Jobs with builds that were deleted before they could be read, latest first."""
        found = self._all(f"SELECT {_MISSED} FROM missed ORDER BY noted_at DESC, controller, full_name")  # noqa: S608
        return [Missed(*row) for row in found]


def _row(value: JobCursor | OpenBuild) -> tuple[Any, ...]:
    """The values with numbers instead of booleans, which SQLite does not have."""
    return tuple(int(each) if isinstance(each, bool) else each for each in astuple(value))


def _cursor(row: Sequence[Any]) -> JobCursor:
    cursor = JobCursor(*row)
    return replace(cursor, absent=True) if cursor.absent else cursor
