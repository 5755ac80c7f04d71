"""How far the polls of each controller have read. Committed together with the facts."""

from __future__ import annotations

from dataclasses import astuple, fields, replace
from typing import TYPE_CHECKING, Any

from agent.model.keys import JENKINS, Project
from agent.outbox.postgresql.endings import Endings
from agent.outbox.postgresql.names import JOB_KEY, OF_JOB, OF_JOBS, named
from agent.outbox.values import ControllerState, JobCursor, JobError, Missed, OpenBuild, WantedBuild

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from agent.model.keys import Run
    from agent.outbox.values import Progress, Renamed


def _listed(kind: Any) -> str:
    return ", ".join(field.name for field in fields(kind))


def _upsert(table: str, keys: str, kind: Any, *more: str) -> str:
    """Insert or replace a row of this kind. ``more``: columns of the key that are no field of it; they come first."""
    names = [field.name for field in fields(kind)]
    columns = [*more, *names]
    changed = ", ".join(f"{name} = excluded.{name}" for name in names if name not in keys)
    return (
        f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('%s' for _ in columns)})"  # noqa: S608
        f" ON CONFLICT ({keys}) DO UPDATE SET {changed}"
    )


_JOB, _OPEN, _STATE, _MISSED, _ERROR = map(_listed, (JobCursor, OpenBuild, ControllerState, Missed, JobError))
_SAVE_JOB = _upsert("jobs", JOB_KEY, JobCursor, "controller")
_SAVE_STATE = _upsert("controllers", "name", ControllerState)
_SAVE_ERROR = _upsert("job_errors", JOB_KEY, JobError, "controller")


class Cursors(Endings):
    """See :class:`agent.outbox.interface.Cursors`."""

    # ---- jobs

    def jobs(self, controller: str) -> dict[str, JobCursor]:
        """All cursors by full name."""
        found = self._all(
            f"SELECT {_JOB} FROM jobs WHERE controller = %s ORDER BY full_name",  # noqa: S608
            (controller,),
        )
        return {row[0]: _cursor(row) for row in found}

    def job(self, controller: str, full_name: str) -> JobCursor | None:
        """The cursor of one job; None if the poller never saw the job."""
        found = self._one(
            f"SELECT {_JOB} FROM jobs WHERE {OF_JOB}",  # noqa: S608
            (controller, full_name),
        )
        return None if found is None else _cursor(found)

    def open_builds(self, controller: str) -> dict[str, list[OpenBuild]]:
        """The open builds of all jobs, by full name."""
        found = self._all(
            f"SELECT full_name, {_OPEN} FROM open_builds WHERE controller = %s ORDER BY full_name, number",  # noqa: S608
            (controller,),
        )
        builds: dict[str, list[OpenBuild]] = {}
        for full_name, number, is_seen, *times in found:
            builds.setdefault(full_name, []).append(OpenBuild(number, bool(is_seen), *times))
        return builds

    def wanted_builds(self, controller: str) -> list[WantedBuild]:
        """Builds that sent a report and that the poller has not read yet, oldest first."""
        found = self._all(
            "SELECT full_name, number, since FROM wanted_builds WHERE controller = %s"
            " ORDER BY since, full_name, number",
            (controller,),
        )
        return [WantedBuild(*row) for row in found]

    def want_builds(self, controller: str, builds: Sequence[tuple[str, int]]) -> None:
        """Make the poller read these builds (job, number), unless they are open already."""
        now = self.clock.now_ms()
        with self._writing():
            self._many(
                "INSERT INTO wanted_builds (controller, full_name, number, since)"  # noqa: S608
                " SELECT %(controller)s, %(job)s, %(number)s, %(now)s WHERE NOT EXISTS (SELECT 1 FROM open_builds"
                f" WHERE controller = %(controller)s AND {named('full_name', '%(job)s')} AND number = %(number)s)"
                " ON CONFLICT DO NOTHING",
                [
                    {"controller": controller, "job": full_name, "number": number, "now": now}
                    for full_name, number in builds
                ],
            )

    def job_errors(self, controller: str | None = None) -> dict[str, JobError]:
        """Jobs that could not be read, by full name. ``controller`` None: those of all controllers."""
        where, values = ("", ()) if controller is None else (" WHERE controller = %s", (controller,))
        found = self._all(f"SELECT {_ERROR} FROM job_errors{where} ORDER BY full_name", values)  # noqa: S608
        return {row[0]: JobError(*row) for row in found}

    # ---- progress

    def save_progress(self, progress: Progress) -> None:
        """Store how far a poll has read, in one transaction (the caller's, if there is one)."""
        controller = progress.controller
        with self._writing():
            self._save_names(controller, progress.renamed, progress.begun)
            self._many(_SAVE_JOB, [(controller, *_row(cursor)) for cursor in progress.cursors])
            self._save_open_builds(controller, progress.open_builds)
            self._add_missed(controller, progress.missed)
            self._many(
                f"DELETE FROM wanted_builds WHERE {OF_JOB} AND number = %s",  # noqa: S608
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
            f"DELETE FROM jobs WHERE {OF_JOB} AND newest_started_at IS NOT DISTINCT FROM %s",  # noqa: S608
            (*key, former.newest_started_at),
        ).rowcount
        if gone:
            self._connection.execute(f"DELETE FROM open_builds WHERE {OF_JOB}", key)  # noqa: S608
            self._connection.execute(f"DELETE FROM job_errors WHERE {OF_JOB}", key)  # noqa: S608
        names = [Project(JENKINS, controller, name) for name in (renamed.full_name, former.full_name)]
        ids = self._made_project_ids(names)
        self._connection.execute(
            "INSERT INTO former_names (project_id, former_id) SELECT %(new)s, id FROM (SELECT %(former)s::bigint AS id"
            " UNION SELECT former_id FROM former_names WHERE project_id = %(former)s) AS f WHERE id <> %(new)s"
            " ON CONFLICT DO NOTHING",
            {"new": ids[names[0]], "former": ids[names[1]]},
        )
        return gone > 0

    def _save_open_builds(self, controller: str, builds: Mapping[str, Sequence[OpenBuild]]) -> None:
        if builds:
            self._connection.execute(f"DELETE FROM open_builds WHERE {OF_JOBS}", (controller, list(builds)))  # noqa: S608
        self._many(
            f"INSERT INTO open_builds (controller, full_name, {_OPEN}) VALUES (%s, %s, %s, %s, %s, %s, %s)",  # noqa: S608
            [(controller, full_name, *_row(build)) for full_name, of_job in builds.items() for build in of_job],
        )

    def _add_missed(self, controller: str, missed: Mapping[str, tuple[int, int]]) -> None:
        now = self.clock.now_ms()
        self._many(
            f"INSERT INTO missed ({_MISSED}) VALUES (%s, %s, %s, %s, %s) ON CONFLICT ({JOB_KEY})"  # noqa: S608
            " DO UPDATE SET builds = missed.builds + excluded.builds, newest_number = excluded.newest_number,"
            " noted_at = excluded.noted_at",
            [(controller, full_name, builds, newest, now) for full_name, (builds, newest) in missed.items()],
        )

    def _save_errors(self, controller: str, errors: Mapping[str, JobError | None]) -> None:
        if errors:
            self._connection.execute(f"DELETE FROM job_errors WHERE {OF_JOBS}", (controller, list(errors)))  # noqa: S608
        self._many(_SAVE_ERROR, [(controller, *astuple(error)) for error in errors.values() if error is not None])

    # ---- names, and what was reported

    def former_names(self, project: Project) -> list[Project]:
        """Other names under which builds of this project may be stored."""
        return self._names([project])[project][1:]

    def was_reported(self, run: Run, started_at: int) -> bool:
        """Whether a deployment exists for the build of this run, under the current or a former name of its project."""
        ids = self._project_ids(self._names([run.project])[run.project])
        found = self._one(
            f"SELECT 1 FROM deployments WHERE project_id = ANY(%s) AND {named('run')} AND attempt = %s"  # noqa: S608
            " AND coalesce(build_started_at, started_at) = %s LIMIT 1",
            (list(ids.values()), run.number, run.attempt, started_at),
        )
        return found is not None

    # ---- controllers

    def controller(self, name: str) -> ControllerState | None:
        """The state of one controller; None if it was never polled."""
        found = self._one(f"SELECT {_STATE} FROM controllers WHERE name = %s", (name,))  # noqa: S608
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
    """The values with numbers instead of booleans, as in all engines."""
    return tuple(int(each) if isinstance(each, bool) else each for each in astuple(value))


def _cursor(row: Sequence[Any]) -> JobCursor:
    cursor = JobCursor(*row)
    return replace(cursor, absent=bool(cursor.absent))
