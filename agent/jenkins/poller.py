"""Polling one controller: which builds are new, which of them are final, and the events that they are.

One request tells for all jobs whether a build was started (`nextBuildNumber`); one more for each job that moved
reads its new builds; those that still run are followed until they are final.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import structlog

from agent.jenkins.builds import build_of
from agent.jenkins.client import (
    BadAnswerError,
    JenkinsError,
    NotFoundError,
    UnauthorizedError,
    UnreachableError,
)
from agent.jenkins.cursor import ControllerState, Cursors, JobCursor, OpenBuild
from agent.jenkins.derive import Underivable, deployment_id, derive, to_json
from agent.jenkins.look import Candidate, JobReader, Look
from agent.jenkins.rules import Match, first_match
from agent.outbox.store import Entry
from agent.times import rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agent.config import JenkinsSettings
    from agent.jenkins.builds import RawBuild
    from agent.jenkins.client import JenkinsClient, Job
    from agent.jenkins.rules import Rule
    from agent.outbox.store import Outbox

log = structlog.get_logger("poller")


@dataclass
class PollReport:
    """What one poll did; ``problems`` are what could not be read, in words."""

    controller: str
    jobs: int = 0
    moved: int = 0
    followed: int = 0
    enqueued: list[str] = field(default_factory=list)
    underivable: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    requests: int = 0


@dataclass(frozen=True)
class _Deploying:
    """A job to look at and the rule that makes its builds deployments."""

    candidate: Candidate
    match: Match


class Poller:
    """Polls one controller. Only one at a time for an outbox: see ``RunLock``."""

    def __init__(
        self, settings: JenkinsSettings, rules: tuple[Rule, ...], client: JenkinsClient, outbox: Outbox
    ) -> None:
        self._settings = settings
        self._rules = rules
        self._client = client
        self._outbox = outbox
        self._clock = outbox.clock
        self._cursors = Cursors(outbox, settings.name)
        self._stopping = False

    def stop(self) -> None:
        """Let a poll under way end after the job that it looks at; the next one goes on from there."""
        self._stopping = True

    def poll(self) -> PollReport:
        """Look once. What Jenkins does wrong is in the report and in ``status``, and nothing is skipped for it.

        Raises :class:`agent.outbox.connection.OutboxError`; the cursor then stays where it was.
        """
        report = PollReport(self._settings.name)
        before = self._client.requests
        try:
            report_from = self._poll(report)
        except JenkinsError as error:
            report.problems.insert(0, str(error))
            if isinstance(error, UnauthorizedError):
                self._client.reload_token()
            self._save_state(_state_of(error), report, None)
        else:
            self._save_state("error" if report.problems else "ok", report, report_from)
        report.requests = self._client.requests - before
        return report

    def _poll(self, report: PollReport) -> int:
        snapshot = self._client.snapshot()
        server_time = snapshot.server_time or self._clock.now_ms()
        report.jobs = len(snapshot.jobs)
        state = self._cursors.state()
        report_from = state.report_from if state else None
        nothing_ended_since = False
        if report_from is None:
            report_from = self._settings.report_from(server_time)
            self._begin(report_from)
            nothing_ended_since = report_from >= server_time
        reader = JobReader(self._client, self._clock, self._settings.name, report_from)
        for deploying in self._deploying(snapshot.jobs, nothing_ended_since=nothing_ended_since):
            if self._stopping:
                break
            candidate = deploying.candidate
            report.moved += candidate.moved
            try:
                look = reader.look(candidate)
            except UnreachableError:
                raise
            except JenkinsError as error:
                report.problems.append(f"job {candidate.job.full_name}: {error}")
            else:
                self._commit(deploying, look, report)
        return report_from

    def _begin(self, report_from: int) -> None:
        """Remember from when on builds are reported, before anything else: a crash must not move it."""
        now = self._clock.now_ms()
        self._cursors.save_state(ControllerState(self._settings.name, "ok", now, report_from))
        log.info("first poll", controller=self._settings.name, report_from=rfc3339(report_from))

    # ---- which jobs to look at

    def _deploying(self, jobs: list[Job], *, nothing_ended_since: bool) -> list[_Deploying]:
        """Jobs that moved or have open builds that may be final; the cursors of the others are brought up to date."""
        known, open_builds = self._cursors.jobs(), self._cursors.open_builds()
        executing: dict[str, set[int]] | None = None
        if nothing_ended_since or any(job.full_name in open_builds for job in jobs):
            executing = self._executing()
        deploying, passed = list[_Deploying](), list[JobCursor]()
        follow: dict[str, list[OpenBuild]] = {}
        for job in jobs:
            name = job.full_name
            cursor, followed = known.get(name), open_builds.get(name, [])
            moved = cursor is None or cursor.next_build_number != job.next_build_number
            if not moved and not followed:
                continue
            running = frozenset((executing or {}).get(name, ()))
            match = first_match(self._rules, name)
            if match is None:
                passed.append(JobCursor(name, job.next_build_number))
                if followed:
                    follow[name] = []
            elif cursor is None and nothing_ended_since and executing is not None:
                # Everything that is not on an executor now ended before: no build needs to be read.
                passed.append(JobCursor(name, job.next_build_number))
                if running:
                    follow[name] = [OpenBuild(number, seen=True) for number in running]
            elif moved or not running.issuperset(build.number for build in followed):
                deploying.append(_Deploying(Candidate(job, cursor, tuple(followed), running, moved), match))
        self._pass_over(passed, follow)
        return deploying

    def _executing(self) -> dict[str, set[int]] | None:
        """The builds on executors by job; None when they cannot be seen, then every open build is asked for."""
        try:
            running = self._client.running()
        except (NotFoundError, UnauthorizedError, BadAnswerError) as error:
            log.info("executors cannot be seen", controller=self._settings.name, reason=str(error))
            return None
        numbers: dict[str, set[int]] = {}
        for full_name, number in running:
            numbers.setdefault(full_name, set()).add(number)
        return numbers

    def _pass_over(self, cursors: list[JobCursor], follow: dict[str, list[OpenBuild]]) -> None:
        if not cursors and not follow:
            return
        with self._outbox.transaction():
            self._cursors.save_jobs(cursors)
            for full_name, builds in follow.items():
                self._cursors.save_open_builds(full_name, builds)

    # ---- what is kept

    def _commit(self, deploying: _Deploying, look: Look, report: PollReport) -> None:
        """Events and cursor together: a crash before has read nothing, a crash after loses nothing."""
        entries = [self._entry(deploying, raw) for raw in look.final]
        with self._outbox.transaction():
            added = self._outbox.enqueue(entries)
            self._cursors.save_jobs([look.cursor])
            self._cursors.save_open_builds(look.cursor.full_name, look.open_builds)
        report.followed += len(look.open_builds)
        self._tell(added, report)

    def _entry(self, deploying: _Deploying, raw: RawBuild) -> Entry:
        job = deploying.candidate.job
        build = build_of(raw, controller=self._settings.name, job=job.full_name, branch_job=job.branch_job)
        event = derive(build, deploying.match)
        return Entry(
            deployment_id=deployment_id(build),
            started_at=build.started_at,
            source=to_json(build),
            event=None if isinstance(event, Underivable) else event,
            reason=event.reason if isinstance(event, Underivable) else None,
        )

    def _tell(self, added: Iterable[Entry], report: PollReport) -> None:
        for entry in added:
            if entry.event is None:
                report.underivable.append(entry.deployment_id)
                log.error("no event can be made", deployment_id=entry.deployment_id, reason=entry.reason)
            else:
                report.enqueued.append(entry.deployment_id)
                log.info(
                    "enqueued",
                    deployment_id=entry.deployment_id,
                    status=entry.event.status.value,
                    environment=entry.event.environment,
                )

    def _save_state(self, name: str, report: PollReport, report_from: int | None) -> None:
        now = self._clock.now_ms()
        before = self._cursors.state() or ControllerState(self._settings.name, "never polled", now)
        changed = before.state != name
        problem = report.problems[0] if report.problems else None
        state = replace(before, state=name, since=now if changed else before.since, last_error=problem)
        if report_from is not None:
            state = replace(state, report_from=report_from, polled_at=now, jobs=report.jobs)
        self._cursors.save_state(state)
        if changed:
            write = log.info if name == "ok" else log.error
            write("controller", controller=self._settings.name, state=name, reason=problem)


def _state_of(error: JenkinsError) -> str:
    match error:
        case UnreachableError():
            return "unreachable"
        case UnauthorizedError():
            return "unauthorized"
        case _:
            return "error"
