"""Recognises renamed jobs: a build keeps its number and start under any name."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from agent.model.keys import jenkins_run
from agent.sources.jenkins.errors import ControllerDownError, JenkinsError, NotFoundError, StoppedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from agent.model.keys import Run
    from agent.outbox.interface import Outbox
    from agent.outbox.values import JobCursor
    from agent.sources.jenkins.client import JenkinsClient, Job, Snapshot
    from agent.sources.jenkins.discovery import Known
    from agent.sources.jenkins.look import Candidate
    from agent.sources.jenkins.raw import RawBuild

# Another job may have taken the former name, which the list does not show. This many names are checked before a job
# that one timer started together with many others counts as new.
ASK_ABOUT_NAMES = 3


class Renames:
    """The former names of jobs, during one poll.

    A job is recognised by the newest build that a poll saw, or by any build with a deployment. Its former name must be
    gone or belong to another job.
    """

    def __init__(
        self,
        controller: str,
        client: JenkinsClient,
        outbox: Outbox,
        snapshot: Snapshot,
        known: Known,
    ) -> None:
        self._controller = controller
        self._client = client
        self._outbox = outbox
        self._snapshot = snapshot
        self._known = known
        self._taken: set[str] = set()
        self._stayed: set[tuple[str, int]] = set()

    def former(self, candidate: Candidate, pages: Iterable[list[RawBuild]]) -> JobCursor | None:
        """The cursor of the job under its former name. ``pages`` of builds are requested only if some job is gone.

        Raises :class:`JenkinsError`.
        """
        for page in pages:
            if candidate.cursor is not None and _shows_newest_of(candidate.cursor, page):
                return None
            found = self._by_newest_build(candidate, page) or self._by_deployment(candidate, page)
            if found is not None or not self._gone:
                return found
        return None

    def shows_another_job(self, cursor: JobCursor, candidate: Candidate, page: Iterable[RawBuild]) -> bool:
        """Whether a build below the cursor is unknown and started at or after the last look."""
        open_builds = {(build.number, build.started_at) for build in candidate.open_builds}
        return any(
            raw.timestamp >= cursor.looked_at
            and raw.number < cursor.next_build_number
            and (raw.number, raw.timestamp) not in open_builds
            and not self._outbox.was_reported(self._run(cursor, raw), raw.timestamp)
            for raw in page
        )

    def take(self, former: JobCursor) -> None:
        """Mark the job of this cursor as found."""
        self._taken.add(former.full_name)

    def was_taken(self, name: str) -> bool:
        """Whether the job that had this name was found under another one."""
        return name in self._taken

    # ---- what is known

    @cached_property
    def _jobs(self) -> dict[str, Job]:
        return {job.full_name: job for job in self._snapshot.jobs}

    @cached_property
    def _cursors(self) -> list[JobCursor]:
        known = self._known.cursors if self._known.complete else self._outbox.jobs(self._controller)
        return [cursor for cursor in known.values() if cursor.newest_number is not None]

    @cached_property
    def _newest(self) -> dict[tuple[int | None, int | None], list[JobCursor]]:
        """One timer may start many jobs in the same millisecond with the same number."""
        found: dict[tuple[int | None, int | None], list[JobCursor]] = {}
        for cursor in self._cursors:
            found.setdefault((cursor.newest_number, cursor.newest_started_at), []).append(cursor)
        return found

    @cached_property
    def _gone(self) -> list[JobCursor]:
        """Jobs with builds that have disappeared, or whose name belongs to another job."""
        return [cursor for cursor in self._cursors if self._is_gone(cursor)]

    def _is_gone(self, cursor: JobCursor) -> bool:
        """Whether it is certainly gone: it would be listed but is not, or its number has decreased."""
        name = cursor.full_name
        job = self._jobs.get(name)
        if job is not None:
            return job.next_build_number < cursor.next_build_number
        return self._snapshot.would_list(name)

    # ---- by the newest build

    def _by_newest_build(self, candidate: Candidate, page: Sequence[RawBuild]) -> JobCursor | None:
        for raw in page:
            same = self._newest.get((raw.number, raw.timestamp), ())
            formers = [cursor for cursor in same if self._may_be(candidate, cursor)]
            if formers and (found := self._one_of(formers, candidate, raw, page)):
                return found
        return None

    def _may_be(self, candidate: Candidate, cursor: JobCursor) -> bool:
        if cursor.full_name == candidate.job.full_name or cursor.full_name in self._taken:
            return False
        return cursor.next_build_number <= candidate.job.next_build_number

    def _one_of(
        self, formers: list[JobCursor], candidate: Candidate, raw: RawBuild, page: Sequence[RawBuild]
    ) -> JobCursor | None:
        """The most likely job whose name is gone; otherwise one whose name belongs to another job now."""
        gone = [cursor for cursor in formers if self._is_gone(cursor)]
        if len(formers) > 1:
            gone.sort(key=lambda cursor: self._likeness(cursor, candidate, page), reverse=True)
        if gone:
            return gone[0]
        doubtful = [cursor for cursor in formers if (cursor.full_name, raw.number) not in self._stayed]
        if len(doubtful) > 1:
            doubtful.sort(key=lambda cursor: self._likeness(cursor, candidate, page), reverse=True)
        return next((cursor for cursor in doubtful[:ASK_ABOUT_NAMES] if not self._has(cursor.full_name, raw)), None)

    def _likeness(
        self, cursor: JobCursor, candidate: Candidate, page: Sequence[RawBuild]
    ) -> tuple[int, bool, bool, int]:
        """How likely this job is among those with the same newest build: by other builds, then by names."""
        folder, _, name = cursor.full_name.rpartition("/")
        folder_now, _, name_now = candidate.job.full_name.rpartition("/")
        builds = sum(self._is_reported(cursor, raw) for raw in page)
        return builds, name == name_now, folder == folder_now, cursor.next_build_number

    def _has(self, name: str, raw: RawBuild) -> bool:
        """Whether the job that has the name now has this build."""
        try:
            has = self._client.build(name, raw.number).timestamp == raw.timestamp
        except NotFoundError:
            has = False
        except (ControllerDownError, StoppedError):
            raise
        except JenkinsError:
            has = True  # unknown: assume that it does
        if has:
            self._stayed.add((name, raw.number))
        return has

    # ---- by any build with a deployment

    def _by_deployment(self, candidate: Candidate, page: Sequence[RawBuild]) -> JobCursor | None:
        if not self._gone:
            return None
        new = [raw for raw in page if raw.number >= candidate.first_new]
        gone = [cursor for cursor in self._gone if self._may_be(candidate, cursor)]
        return next((cursor for raw in new for cursor in gone if self._is_reported(cursor, raw)), None)

    def _is_reported(self, cursor: JobCursor, raw: RawBuild) -> bool:
        if raw.number >= cursor.next_build_number or raw.timestamp > cursor.looked_at:
            return False
        return self._outbox.was_reported(self._run(cursor, raw), raw.timestamp)

    def _run(self, cursor: JobCursor, raw: RawBuild) -> Run:
        return jenkins_run(self._controller, cursor.full_name, raw.number)


def _shows_newest_of(cursor: JobCursor, page: Iterable[RawBuild]) -> bool:
    known = cursor.newest_number, cursor.newest_started_at
    return any((raw.number, raw.timestamp) == known for raw in page)
