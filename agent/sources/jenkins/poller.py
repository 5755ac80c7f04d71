"""Polling one controller: which builds are new, which of them are final, and the events that they are.

One request tells for all jobs whether a build was started (`nextBuildNumber`); one more for each job that moved
reads its new builds; those that still run are followed until they are final.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import msgspec
import structlog

from agent.config.rules import Match, first_match, match_of_reporting
from agent.deployments.derive import Options, deployment_id, derive, derive_reported, from_json, reported_in, to_json
from agent.ingest.told import environment_of, is_of, polled, told_by, waits
from agent.model.build import Phase, build_of
from agent.model.times import rfc3339
from agent.outbox.cursors import ControllerState, Cursors, JobCursor, OpenBuild
from agent.outbox.sqlite.store import Entry, State
from agent.sources.jenkins.backoff import Pause
from agent.sources.jenkins.client import (
    BadAnswerError,
    JenkinsError,
    NotFoundError,
    UnauthorizedError,
    UnreachableError,
)
from agent.sources.jenkins.details import Enricher
from agent.sources.jenkins.reader import PAGE, AnotherJobError, Candidate, FirstAnswer, JobReader, Look, first_look

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from agent.config.rules import Rule
    from agent.config.settings import JenkinsSettings
    from agent.deployments.derive import Derivation
    from agent.model.build import Build, RawBuild
    from agent.outbox.sqlite.store import Outbox, Row
    from agent.sources.jenkins.client import JenkinsClient, Job, Listing

log = structlog.get_logger("poller")

# So many jobs are stored in one transaction; each by itself would wait for the disk.
JOBS_TOGETHER = 20
# More events than this are stored before the cursor moves: catching up takes no more memory for longer absences.
STORE_AT = 500


@dataclass
class PollReport:
    """What one poll did; ``problems`` are what could not be read, in words."""

    controller: str
    jobs: int = 0
    moved: int = 0
    followed: int = 0
    renamed: int = 0
    enqueued: list[str] = field(default_factory=list)
    underivable: list[str] = field(default_factory=list)
    missed: int = 0
    problems: list[str] = field(default_factory=list)
    requests: int = 0
    complete: bool = False


@dataclass(frozen=True)
class _Answered:
    """What a poll learned of the controller itself; see :class:`ControllerState`."""

    report_from: int
    clock_ahead_ms: int


@dataclass(frozen=True)
class _Deploying:
    """A job to look at and the rule that makes its builds deployments."""

    candidate: Candidate
    match: Match


@dataclass(frozen=True)
class _Known:
    """What the last polls left: the cursors and the open builds by job."""

    cursors: dict[str, JobCursor]
    open_builds: dict[str, list[OpenBuild]]

    def by_newest(self) -> dict[tuple[int, int], JobCursor]:
        """The cursors by number and start of their newest builds, by which a job is known under any name."""
        return {
            (cursor.newest_number, cursor.newest_started_at): cursor
            for cursor in self.cursors.values()
            if cursor.newest_number is not None and cursor.newest_started_at is not None
        }


@dataclass(frozen=True)
class _Looked:
    """A job that was looked at, and what is to be stored of it."""

    candidate: Candidate
    match: Match
    look: Look
    builds: list[Build]

    @property
    def former_name(self) -> str | None:
        """The name under which the job was known, if that was another one."""
        former, name = self.candidate.cursor, self.candidate.job.full_name
        return None if former is None or former.full_name == name else former.full_name

    @property
    def missed(self) -> int:
        """How many builds were gone."""
        return len(self.look.missed) + self.look.missed_unlisted


@dataclass(frozen=True)
class _Pass:
    """One poll under way; ``looked``: what is not stored yet."""

    reader: JobReader
    jobs: dict[str, Job]
    known: _Known
    by_newest: dict[tuple[int, int], JobCursor]
    report: PollReport
    looked: list[_Looked] = field(default_factory=list)

    @cached_property
    def gone(self) -> list[JobCursor]:
        """Jobs that had builds and are not there any more, or not under their names."""
        return [cursor for cursor in self.by_newest.values() if cursor.full_name not in self.jobs]


class Poller:
    """Polls one controller. Only one at a time for an outbox: see ``RunLock``."""

    def __init__(
        self,
        settings: JenkinsSettings,
        rules: tuple[Rule, ...],
        client: JenkinsClient,
        outbox: Outbox,
        options: Options | None = None,
        *,
        take_reports: Callable[[], object] = lambda: None,
    ) -> None:
        """``take_reports`` makes events of what builds reported, before it is asked what a final build reported."""
        self._settings = settings
        self._take_reports = take_reports
        self._rules = rules
        self._options = options or Options()
        self._client = client
        self._enricher = Enricher(client, settings.name)
        self._outbox = outbox
        self._clock = outbox.clock
        self._cursors = Cursors(outbox, settings.name)
        self._pause = Pause(settings.poll_interval_ms / 1000, outbox.clock)
        self._settled: list[Job] | None = None  # the list of jobs up to which everything was read
        self._stopping = False
        self._executors_hidden = False

    def stop(self) -> None:
        """Let a poll under way end after the job that it looks at; the next one goes on from there."""
        self._stopping = True

    @property
    def requests(self) -> int:
        """How many questions were asked so far: it tells one who waits whether a poll goes on."""
        return self._client.requests

    def due(self) -> bool:
        """False while a controller that does not answer is left in peace; a new token is tried at once."""
        return self._pause.over() or self._client.reload_token()

    def poll(self) -> PollReport:
        """Look once. What Jenkins does wrong is in the report and in ``status``, and nothing is skipped for it.

        Raises :class:`agent.outbox.sqlite.connection.OutboxError`; the cursor then stays where it was.
        """
        report = PollReport(self._settings.name)
        before = self._client.requests
        try:
            answered = self._poll(report)
        except JenkinsError as error:
            report.problems.insert(0, str(error))
            self._pause.failed()
            self._save_state(_state_of(error), report, None)
        else:
            self._pause.answered()
            report.complete = not self._stopping
            self._save_state("error" if report.problems else "ok", report, answered)
        report.requests = self._client.requests - before
        return report

    def _poll(self, report: PollReport) -> _Answered:
        snapshot = self._client.snapshot()
        now = self._clock.now_ms()
        server_time = snapshot.server_time or now
        report.jobs = len(snapshot.jobs)
        report.problems += snapshot.problems
        state = self._cursors.state()
        report_from = state.report_from if state else None
        nothing_ended_since = False
        if report_from is None:
            report_from = self._settings.report_from(server_time)
            self._begin(report_from, server_time - now)
            nothing_ended_since = report_from >= server_time
        jobs, known = self._to_compare(snapshot.jobs)
        deploying = self._deploying(jobs, known, server_time, nothing_ended_since=nothing_ended_since)
        if deploying:
            reader = JobReader(self._client, self._clock, self._settings.name, report_from)
            under_way = _Pass(reader, {job.full_name: job for job in jobs}, known, known.by_newest(), report)
            try:
                for each, answer in self._ask_all(reader, deploying):
                    self._look(under_way, each, answer)
            except UnreachableError:
                self._commit(under_way)  # what was read before
                raise
            self._commit(under_way)
        self._confirm_held(snapshot.jobs, report)
        if not report.problems and not report.renamed and not self._stopping:
            self._settled = snapshot.jobs
        return _Answered(report_from, server_time - now)

    def _to_compare(self, jobs: list[Job]) -> tuple[list[Job], _Known]:
        """The jobs that can have changed, and what is known of them.

        When Jenkins gave the same answer as before, and everything in it was read, only open builds are of interest:
        no time is spent on ten thousand jobs that stand still. But after a job got another name it is not so: whatever
        has its old name now may have been taken for it.
        """
        open_builds = self._cursors.open_builds()
        settled, self._settled = self._settled, None  # until this poll has read everything too
        if jobs is not settled:
            return jobs, _Known(self._cursors.jobs(), open_builds)
        followed = [job for job in jobs if job.full_name in open_builds] if open_builds else []
        cursors = {job.full_name: cursor for job in followed if (cursor := self._cursors.job(job.full_name))}
        return followed, _Known(cursors, open_builds)

    def _begin(self, report_from: int, clock_ahead_ms: int) -> None:
        """Remember from when on builds are reported, before anything else: a crash must not move it."""
        now = self._clock.now_ms()
        state = ControllerState(self._settings.name, "ok", now, report_from, clock_ahead_ms=clock_ahead_ms)
        self._cursors.save_state(state)
        log.info("first poll", controller=self._settings.name, report_from=rfc3339(report_from))

    # ---- which jobs to look at

    def _deploying(
        self, jobs: list[Job], known: _Known, server_time: int, *, nothing_ended_since: bool
    ) -> list[_Deploying]:
        """Jobs that moved or have open builds that may be final; the cursors of the others are brought up to date."""
        executing: dict[str, set[int]] | None = None
        if nothing_ended_since or (known.open_builds and any(job.full_name in known.open_builds for job in jobs)):
            executing = self._executing()
        deploying, passed = list[_Deploying](), list[JobCursor]()
        follow: dict[str, list[OpenBuild]] = {}
        for job in jobs:
            name = job.full_name
            cursor, followed = known.cursors.get(name), known.open_builds.get(name, ())
            if cursor is not None and job.next_build_number < cursor.next_build_number:
                cursor, followed = None, ()  # deleted and created again
            moved = cursor is None or cursor.next_build_number != job.next_build_number
            if not moved and not followed:
                continue
            running = frozenset((executing or {}).get(name, ()))
            match = first_match(self._rules, name)
            if match is None:
                passed.append(JobCursor(name, job.next_build_number, server_time))
                if followed:
                    follow[name] = []
            elif cursor is None and nothing_ended_since and executing is not None:
                # Everything that is not on an executor now ended before: no build needs to be read.
                passed.append(JobCursor(name, job.next_build_number, server_time))
                if running:
                    now = self._clock.now_ms()
                    follow[name] = [OpenBuild(number, seen=True, first_seen_at=now) for number in running]
            elif moved or not running.issuperset(build.number for build in followed):
                candidate = Candidate(job, cursor, server_time, tuple(followed), running, moved)
                deploying.append(_Deploying(candidate, match))
        self._pass_over(passed, follow)
        return deploying

    def _executing(self) -> dict[str, set[int]] | None:
        """The builds on executors by job; None when they cannot be seen, then every open build is asked for."""
        try:
            running = self._client.running()
        except (NotFoundError, UnauthorizedError, BadAnswerError) as error:
            if not self._executors_hidden:
                log.info("executors cannot be seen", controller=self._settings.name, reason=str(error))
            self._executors_hidden = True
            return None
        self._executors_hidden = False
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

    def _ask_all(
        self, reader: JobReader, deploying: list[_Deploying]
    ) -> Iterator[tuple[_Deploying, Future[FirstAnswer]]]:
        """Ask the first question about each job, several at once but never far ahead of the reading."""
        width = self._settings.concurrency
        with ThreadPoolExecutor(width, thread_name_prefix="ask") as pool:
            asked: deque[tuple[_Deploying, Future[FirstAnswer]]] = deque()
            try:
                for each in deploying:
                    asked.append((each, pool.submit(reader.ask, each.candidate)))
                    if len(asked) > 2 * width:
                        yield asked.popleft()
                while asked and not self._stopping:
                    yield asked.popleft()
            finally:
                pool.shutdown(cancel_futures=True)

    # ---- one job

    def _look(self, under_way: _Pass, deploying: _Deploying, answer: Future[FirstAnswer]) -> None:
        if self._stopping:
            return
        report = under_way.report
        report.moved += deploying.candidate.moved
        try:
            candidate, first = self._recognise(under_way, deploying.candidate, answer.result())
            try:
                self._read(under_way, replace(deploying, candidate=candidate), first)
            except AnotherJobError:
                self._read_as_another(under_way, deploying)
        except UnreachableError:
            raise
        except JenkinsError as error:
            report.problems.append(f"job {deploying.candidate.job.full_name}: {error}")

    def _read_as_another(self, under_way: _Pass, deploying: _Deploying) -> None:
        """Read a job of which the cursor is not: it may be one that had another name, else it is new."""
        other = deploying.candidate.as_another_job()
        candidate, first = self._recognise(under_way, other, under_way.reader.ask(other))
        try:
            self._read(under_way, replace(deploying, candidate=candidate), first)
        except AnotherJobError:
            self._read(under_way, replace(deploying, candidate=other), under_way.reader.ask(other))

    def _recognise(self, under_way: _Pass, candidate: Candidate, first: FirstAnswer) -> tuple[Candidate, FirstAnswer]:
        """A job under a new name is the job that it was: its builds tell."""
        if not candidate.moved:
            return candidate, first
        former = self._former(under_way, candidate, first.listing)
        if former is None:
            return candidate, first
        opened = tuple(under_way.known.open_builds.get(former.full_name, ()))
        candidate = replace(candidate, cursor=former, open_builds=opened)
        return candidate, under_way.reader.ask(candidate)

    def _former(self, under_way: _Pass, candidate: Candidate, first: Listing) -> JobCursor | None:
        """The cursor of the job under its former name; beyond the first page only where some job is gone."""
        for page in under_way.reader.pages(candidate, first):
            former = next((cursor for raw in page if (cursor := self._formerly(under_way, candidate, raw))), None)
            if former is not None or not under_way.gone:
                return former
            new = [raw for raw in page if raw.number >= candidate.first_new]
            if former := next((c for raw in new for c in under_way.gone if self._reported_as(c, raw)), None):
                return former
        return None

    def _reported_as(self, gone: JobCursor, raw: RawBuild) -> bool:
        """Whether this build has an event as one of a job that is gone, whose newest build may be gone as well."""
        if raw.number >= gone.next_build_number or raw.timestamp > gone.looked_at:
            return False
        return self._cursors.reported(gone.full_name, raw.number, raw.timestamp)

    def _formerly(self, under_way: _Pass, candidate: Candidate, raw: RawBuild) -> JobCursor | None:
        """The cursor of the job that this build made known under another name, if it is not there any more."""
        cursor = under_way.by_newest.get((raw.number, raw.timestamp))
        if cursor is None or cursor.full_name == candidate.job.full_name:
            return None
        job = under_way.jobs.get(cursor.full_name)
        if job is None or job.next_build_number < cursor.next_build_number:
            return cursor
        # Two jobs started at the same moment, or two that changed their names: the other one has the build, or not.
        builds = self._client.builds(job, 0, min(job.next_build_number - raw.number + 1, PAGE)).builds
        stayed = any((other.number, other.timestamp) == (raw.number, raw.timestamp) for other in builds)
        return None if stayed else cursor

    def _read(self, under_way: _Pass, deploying: _Deploying, first: FirstAnswer) -> None:
        candidate = deploying.candidate
        look = first_look(candidate)
        builds: list[Build] = []
        for final in under_way.reader.read(candidate, first, look):
            if len(builds) >= STORE_AT:
                self._take_reports()
                self._tell(self._enqueue(builds, deploying.match), under_way.report)
                builds = []
            builds += [self._final(deploying, raw, look) for raw in final]
        under_way.looked.append(_Looked(candidate, deploying.match, look, builds))
        if len(under_way.looked) >= JOBS_TOGETHER or sum(len(job.builds) for job in under_way.looked) >= STORE_AT:
            self._commit(under_way)

    def _final(self, deploying: _Deploying, raw: RawBuild, look: Look) -> Build:
        job = deploying.candidate.job
        build = build_of(
            raw,
            controller=self._settings.name,
            job=job.full_name,
            branch_job=job.branch_job,
            pull_request_url=look.pull_request_url,
        )
        told = self._told_by(build)
        if told and not any(waits(row) for row in told):
            return build  # it needs no event any more
        return self._enricher.enrich(build, deploying.match)

    def _told_by(self, build: Build) -> list[Row]:
        return told_by(self._outbox, build, self._cursors.former_names(build.job))

    def _enqueue(self, builds: list[Build], match: Match) -> list[Entry]:
        """Store the events of final builds.

        What a build reported of itself is looked at in the same transaction: it may report at any moment.
        """
        with self._outbox.transaction():
            told = [(build, self._told_by(build)) for build in builds]
            silent = [build for build, rows in told if not rows]
            entries = [_entry(build, found) for build in silent for found in derive(build, match, self._options)]
            added = self._outbox.enqueue(entries)
            for build, rows in told:
                if own := polled(self._outbox, build, self._cursors.former_names(build.job)) if rows else []:
                    self._add_late_report(build, match, own, rows)
                elif rows:
                    added += self._enqueue_told(build, match, rows)
        return added

    def _add_late_report(self, build: Build, match: Match, own: list[Row], told: list[Row]) -> None:
        """A report came so long after the build's event that it might have been of another build: it is of this one.

        As for any other report that is late, what only the build knew goes into the event while that can be changed.
        """
        waiting = [row for row in told if waits(row)]
        self._outbox.enqueue([], instead_of=waiting)
        if waiting and len(own) == 1 and own[0].deployment_id.partition("@")[0] == deployment_id(build):
            reported = msgspec.structs.replace(build, reported=reported_in(waiting[-1].source))
            found = derive(reported, match, self._options)[0].renamed(own[0].deployment_id)
            if found.event is not None or own[0].state is not State.PENDING:
                self._outbox.rewrite(own[0], replace(_entry(reported, found), reported=""))

    def _enqueue_told(self, build: Build, match: Match, told: list[Row]) -> list[Entry]:
        """The events of a build that reported itself: what waits for this word gets it, the rest is on its way."""
        waiting = [row for row in told if waits(row)]
        gone = {environment_of(row) for row in told if not row.reported and not waits(row)}
        reports = {environment_of(row): said for row in waiting if (said := reported_in(row.source))}
        entries = [
            replace(_entry(msgspec.structs.replace(build, reported=said), found), reported="")
            for said, found in derive_reported(
                build, match, self._options, list(reports.values()), several=bool(gone) or len(reports) > 1
            )
            if found.event is None or found.event.environment not in gone
        ]
        return self._outbox.enqueue(
            [self._outbox.under_free_id(entry, waiting) for entry in entries], instead_of=waiting
        )

    def _confirm_held(self, jobs: list[Job], report: PollReport) -> None:
        """Ask for the builds of held events that are not followed anyway, as those of jobs that match no rule."""
        self._take_reports()
        wanted: dict[tuple[str, int], list[Row]] = {}
        for row in self._outbox.all_held():
            if row.source is not None and (build := from_json(row.source)).controller == self._settings.name:
                wanted.setdefault((build.job, build.number), []).append(row)
        if not wanted:
            return
        followed = {(job, build.number) for job, builds in self._cursors.open_builds().items() for build in builds}
        branch_jobs = {job.full_name for job in jobs if job.branch_job}
        for (job, number), rows in wanted.items():
            if self._stopping or (job, number) in followed:
                continue
            try:
                raw = self._client.build(job, number)
            except (NotFoundError, UnauthorizedError, BadAnswerError) as error:
                log.info("held build cannot be read", build=f"{job}#{number}", reason=str(error))
                continue
            build = build_of(raw, controller=self._settings.name, job=job, branch_job=job in branch_jobs)
            # With another time it is a build of a job that was created again, which may not have reported anything.
            if raw.phase is Phase.FINAL and any(is_of(row, build) for row in rows):
                match = match_of_reporting(self._rules, job)
                build = self._enricher.enrich(build, match)
                self._take_reports()
                self._tell(self._enqueue([build], match), report)

    # ---- what is kept

    def _commit(self, under_way: _Pass) -> None:
        """Events and cursors together: a crash before has read nothing, a crash after loses nothing."""
        looked = list(under_way.looked)
        under_way.looked.clear()
        added: list[Entry] = []
        if any(job.builds for job in looked):
            self._take_reports()
        if looked:
            with self._outbox.transaction():
                for job in looked:
                    added += self._store(job)
        for job in looked:
            self._tell_of_job(job, under_way.report)
        self._tell(added, under_way.report)

    def _store(self, looked: _Looked) -> list[Entry]:
        candidate, look = looked.candidate, looked.look
        name = candidate.job.full_name
        if candidate.cursor is not None and looked.former_name is not None:
            self._cursors.rename(candidate.cursor, name)
        added = self._enqueue(looked.builds, looked.match)
        self._cursors.save_jobs([look.cursor])
        self._cursors.save_open_builds(name, look.open_builds)
        if looked.missed:
            newest = max(look.missed, default=candidate.job.next_build_number - 1)
            self._cursors.add_missed(name, looked.missed, newest)
        return added

    def _tell_of_job(self, looked: _Looked, report: PollReport) -> None:
        told = log.bind(controller=self._settings.name, job=looked.candidate.job.full_name)
        if looked.former_name is not None:
            told.info("job has another name", before=looked.former_name)
            report.renamed += 1
        if looked.missed:
            told.warning("builds were gone before they could be read", builds=looked.missed)
            report.missed += looked.missed
        report.followed += len(looked.look.open_builds)

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

    def _save_state(self, name: str, report: PollReport, answered: _Answered | None) -> None:
        now = self._clock.now_ms()
        before = self._cursors.state() or ControllerState(self._settings.name, "never polled", now)
        changed = before.state != name
        problem = report.problems[0] if report.problems else None
        state = replace(before, state=name, since=now if changed else before.since, last_error=problem)
        if answered is not None:
            state = replace(
                state, report_from=answered.report_from, clock_ahead_ms=answered.clock_ahead_ms, polled_at=now,
                jobs=report.jobs,
            )  # fmt: skip
        self._cursors.save_state(state)
        if changed:
            write = log.info if name == "ok" else log.error
            write("controller", controller=self._settings.name, state=name, reason=problem)


def _entry(build: Build, found: Derivation) -> Entry:
    return Entry(found.deployment_id, build.started_at, to_json(build), found.event, found.reason)


def _state_of(error: JenkinsError) -> str:
    match error:
        case UnreachableError():
            return "unreachable"
        case UnauthorizedError():
            return "unauthorized"
        case _:
            return "error"
