"""Polls one controller: finds new builds, follows them until they are final, and stores facts.

One request shows for all jobs whether a build was started (`nextBuildNumber`). One more for each job with new builds
reads them. Running builds stay open until they are final. A job or build that cannot be read does not delay the others:
see :class:`agent.sources.jenkins.unread.Unread`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import structlog

from agent.model.times import offset_ms, rfc3339
from agent.outbox.values import ControllerState, JobCursor, Progress
from agent.sources.jenkins.backoff import Pause
from agent.sources.jenkins.details import Details
from agent.sources.jenkins.discovery import Discovery, Executors, Known
from agent.sources.jenkins.errors import JenkinsError, StoppedError, UnauthorizedError, UnreachableError
from agent.sources.jenkins.missed import MissedBuilds
from agent.sources.jenkins.pace import Pace
from agent.sources.jenkins.reader import JobReader
from agent.sources.jenkins.reading import Reading
from agent.sources.jenkins.remembered import Remembered
from agent.sources.jenkins.renames import Renames
from agent.sources.jenkins.round import Round
from agent.sources.jenkins.storing import PollReport, Storing
from agent.sources.jenkins.unread import Unread
from agent.sources.jenkins.wanted import WantedBuilds

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.config.settings import JenkinsSettings
    from agent.ingest.ingest import Ingest
    from agent.sources.jenkins.client import JenkinsClient, Job, Snapshot
    from agent.sources.jenkins.discovery import Found

__all__ = ["PollReport", "Poller"]

log = structlog.get_logger("poller")


class Poller:
    """Polls one controller. There must be only one for an outbox."""

    def __init__(
        self,
        settings: JenkinsSettings,
        client: JenkinsClient,
        ingest: Ingest,
        *,
        take_reports: Callable[[], object] = lambda: None,
    ) -> None:
        """``take_reports`` accepts waiting reports; it is called before the facts of a poll are stored."""
        interval_s = settings.poll_interval_ms / 1000
        self._settings = settings
        self._name = settings.name
        self._client = client
        self._ingest = ingest
        self._outbox = ingest.outbox
        self._clock = ingest.outbox.clock
        self._rules = ingest.rules.rules
        self._take_reports = take_reports
        self._details = Details(client, settings.name, ingest.rules.options.libraries)
        self._executors = Executors(client, settings.name, interval_s, self._clock)
        self._wanted = WantedBuilds(
            settings.name, client, self._outbox, self._details, rules=self._rules, interval_s=interval_s
        )
        self._remembered = Remembered(settings.name, self._outbox)
        self._pause = Pause(interval_s, self._clock)
        self._pace = Pace(interval_s)
        self._clock_ahead_ms = 0
        self._settled: list[Job] | None = None  # the last list of jobs that was read completely
        self._stopping = False
        self._told: str | None = None  # the state that this process logged last

    @cached_property
    def _unread(self) -> Unread:
        stored = self._outbox.job_errors(self._name)
        return Unread(self._name, self._settings.poll_interval_ms / 1000, self._clock, stored)

    def stop(self) -> None:
        """End the current poll after the current job; the next poll continues from there."""
        self._stopping = True

    @property
    def progress(self) -> int:
        """A number that grows while a poll advances; the watchdog uses it."""
        return self._client.progress

    @property
    def interval_s(self) -> float:
        """The current time between polls, in seconds; longer while Jenkins is slow."""
        return self._pace.interval_s

    def due(self) -> bool:
        """False during the pause after a failure. A new token ends the pause."""
        return self._pause.over() or self._client.reload_token()

    def poll(self) -> PollReport:
        """Poll once. Failures of Jenkins are in the report and in ``status``; what failed is read in a later poll.

        Raises :class:`agent.outbox.values.OutboxError`; the cursor is then unchanged.
        """
        report = PollReport(self._name)
        before = self._client.requests
        with self._remembered.poll():
            self._poll_and_save_state(report)
        report.requests = self._client.requests - before
        return report

    def _poll_and_save_state(self, report: PollReport) -> None:
        try:
            problem = self._poll(report)
        except StoppedError:
            pass
        except JenkinsError as error:
            report.problems.insert(0, str(error))
            self._pause.failed(error.retry_after_ms if isinstance(error, UnreachableError) else None)
            self._save_state(_state_of(error), str(error))
        else:
            self._pause.answered()
            report.complete = not self._stopping
            self._save_state("ok" if problem is None else "error", problem, report)

    def _poll(self, report: PollReport) -> str | None:
        """Returns the problem of the whole controller, if any."""
        snapshot = self._client.snapshot()
        self._note_pace(snapshot.seconds)
        now = self._clock.now_ms()
        server_time = snapshot.server_time or now
        self._clock_ahead_ms = server_time - now
        report.jobs = len(snapshot.jobs)
        report.problems += snapshot.problems
        report_from, first = self._report_from(server_time)
        jobs, known = self._to_compare(snapshot.jobs)
        found = Discovery(
            self._rules, known, self._unread, self._executors.ask,
            now=now, server_time=server_time, nothing_ended_since=first and report_from >= server_time,
        ).find(jobs)  # fmt: skip
        absent = _absent(snapshot, known) if known.complete else []
        if found.passed or absent:
            passed = Progress(self._name, (*found.passed, *absent), found.followed, ended=found.history)
            self._outbox.save_progress(passed)
            if history := sum(each.last - each.first + 1 for ended in found.history.values() for each in ended):
                log.info("builds from before the first poll are not reported", controller=self._name, builds=history)
        storing = Storing(self._ingest, self._take_reports, self._unread, report)
        report.moved = sum(candidate.moved for candidate in found.candidates)
        if found.candidates or found.renewed:
            self._read(found, known, snapshot, report_from, storing)
        if not self._stopping:
            self._wanted.read(snapshot.jobs, self._jenkins_now(), storing.accept)
        if not (known.open_builds or found.passed or absent or found.candidates or found.renewed or storing.stored):
            self._remembered.nothing_opened()
        self._show_errors(snapshot, report)
        if not snapshot.problems and not report.renamed and not found.later and not self._stopping:
            self._settled = snapshot.jobs
        return next(iter(snapshot.problems), None)

    def _note_pace(self, seconds: float) -> None:
        slowed = self._pace.slowed
        self._pace.answered(seconds)
        if self._pace.slowed and not slowed:
            log.warning("Jenkins is slow; polling less often", controller=self._name, seconds=round(seconds, 3))
        elif slowed and not self._pace.slowed:
            log.info("Jenkins answers at its usual speed again", controller=self._name)

    def _read(self, found: Found, known: Known, snapshot: Snapshot, report_from: int, storing: Storing) -> None:
        reader = JobReader(self._client, self._clock, report_from, MissedBuilds(self._name, self._outbox))
        renames = Renames(self._name, self._client, self._outbox, snapshot, known)
        reading = Reading(
            self._name, self._clock, reader, self._details, renames,
            open_builds=known.open_builds, now=self._jenkins_now, store=storing.accept,
        )  # fmt: skip
        this_round = Round(reader, reading, storing, is_up=self._client.snapshot)
        this_round.look_at(found, at_once=self._settings.concurrency, stopping=lambda: self._stopping)

    def _jenkins_now(self) -> int:
        """The controller's time, as used for reports, so that both can be ordered."""
        return self._clock.now_ms() + offset_ms(self._clock_ahead_ms)

    def _report_from(self, server_time: int) -> tuple[int, bool]:
        """The time from which on builds are reported, and whether it was set just now.

        It is stored before anything else, so that a crash cannot change it.
        """
        state = self._remembered.state()
        if state is not None and state.report_from is not None:
            return state.report_from, False
        report_from, now = self._settings.report_from(server_time), self._clock.now_ms()
        state = ControllerState(self._name, "ok", now, report_from, clock_ahead_ms=self._clock_ahead_ms)
        self._remembered.save(state)
        log.info("first poll", controller=self._name, report_from=rfc3339(report_from))
        return report_from, True

    def _to_compare(self, jobs: list[Job]) -> tuple[list[Job], Known]:
        """The jobs that may have changed, and what is known about them.

        If Jenkins' answer did not change and was read completely, only open builds and jobs that could not be read are
        checked, so that thousands of idle jobs cost nothing. Not after a job was renamed: another job may have its old
        name.
        """
        open_builds = self._remembered.open_builds()
        settled, self._settled = self._settled, None  # set again when this poll has read everything
        if jobs is not settled:
            return jobs, Known(self._outbox.jobs(self._name), open_builds, complete=True)
        names = open_builds.keys() | self._unread.jobs()
        jobs = [job for job in jobs if job.full_name in names] if names else []
        found = [self._outbox.job(self._name, job.full_name) for job in jobs]
        return jobs, Known({cursor.full_name: cursor for cursor in found if cursor}, open_builds, complete=False)

    def _show_errors(self, snapshot: Snapshot, report: PollReport) -> None:
        """Show unreadable jobs in ``status``."""
        if self._unread and not snapshot.problems:
            self._unread.forget({job.full_name for job in snapshot.jobs})
        report.job_errors = len(self._unread)
        if changes := self._unread.changes():
            self._outbox.save_progress(Progress(self._name, errors=changes))
            self._unread.stored(changes)

    def _save_state(self, name: str, problem: str | None, report: PollReport | None = None) -> None:
        """``report``: of a completed poll."""
        now = self._clock.now_ms()
        before = self._remembered.state() or ControllerState(self._name, "never polled", now)
        changed = before.state != name
        state = replace(before, state=name, since=now if changed else before.since, last_error=problem)
        if report is not None:
            state = replace(state, clock_ahead_ms=self._clock_ahead_ms, polled_at=now, jobs=report.jobs)
        self._remembered.save(state)
        told, self._told = self._told, name
        if changed or (told is None and name != "ok"):  # a problem from before a restart is logged again
            write = log.info if name == "ok" else log.error
            write("controller", controller=self._name, state=name, reason=problem)


def _absent(snapshot: Snapshot, known: Known) -> list[JobCursor]:
    """Cursors to store for jobs that have disappeared. They may come back, or another job may get the name."""
    there = {job.full_name for job in snapshot.jobs}
    return [
        replace(cursor, absent=True)
        for name, cursor in known.cursors.items()
        if name not in there and not cursor.absent and cursor.no_rule_since is None and snapshot.would_list(name)
    ]


def _state_of(error: JenkinsError) -> str:
    match error:
        case UnreachableError():
            return "unreachable"
        case UnauthorizedError():
            return "unauthorized"
        case _:
            return "error"
