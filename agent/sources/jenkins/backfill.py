"""Backfill: reports past builds on demand. It can be resumed and never duplicates reported deployments."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from agent.config.rules import first_match
from agent.model import fact as facts
from agent.model.deployment import State
from agent.model.fact import Fact
from agent.model.keys import jenkins_run
from agent.model.times import offset_ms, rfc3339
from agent.outbox.values import OutboxError
from agent.sources.jenkins.errors import ControllerDownError, JenkinsError, StoppedError
from agent.sources.jenkins.history import History, Span
from agent.sources.jenkins.raw import Phase
from agent.sources.jenkins.unread import in_words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from agent.config.rules import Match, Pattern
    from agent.config.settings import JenkinsSettings, Settings
    from agent.ingest.ingest import Accepted, Ingest
    from agent.model.build import Build
    from agent.model.deployment import Deployment
    from agent.outbox.interface import Outbox
    from agent.sources.jenkins.client import JenkinsClient, Job

log = structlog.get_logger("backfill")

# If a backfill is resumed within this time (ms), the jobs that it has read are skipped.
SOON_MS = 3_600_000


@dataclass(frozen=True)
class Request:
    """What to report. ``words``: the arguments as given; the same arguments resume an interrupted backfill."""

    span: Span
    words: str
    job: Pattern | None = None
    dry_run: bool = False


@dataclass(frozen=True)
class PlannedEvent:
    """An event that a dry run found. ``ended_at``: the end of the deployment (RFC 3339)."""

    deployment_id: str
    status: str
    environment: str | None
    ended_at: str


@dataclass
class BackfillReport:
    """What a backfill did or, with ``dry_run``, would do.

    ``enqueued`` and ``underivable`` contain deployment_ids; ``known`` counts builds. ``planned``: the events of a dry
    run, otherwise empty.
    """

    jobs: int = 0
    jobs_done_before: int = 0
    builds: int = 0
    enqueued: list[str] = field(default_factory=list)
    planned: list[PlannedEvent] = field(default_factory=list)
    underivable: dict[str, str] = field(default_factory=dict)
    known: int = 0
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Plan:
    """What to read: ``span`` of each job. Jobs that an interrupted backfill has read are read again from ``since`` on.

    ``since`` None: they are skipped.
    """

    span: Span
    resumes: bool = False
    since: Span | None = None


def plan(outbox: Outbox, request: Request) -> Plan:
    """Resume an interrupted backfill with its own time span, or start a new one: ``7d`` keeps its meaning when resumed.

    An interrupted backfill whose span ended long ago is not resumed: the same arguments now mean other days.
    """
    asked, now = request.span, outbox.clock.now_ms()
    remembered = None if request.dry_run else outbox.backfill_span(request.words)
    if remembered is None:
        return Plan(asked)
    since, until = remembered[0], min(remembered[1], now)
    if until <= asked.since:
        return Plan(asked)
    is_new = min(asked.until, now) - until > SOON_MS
    rest = Span(until - SOON_MS, asked.until) if is_new else None
    return Plan(Span(min(since, asked.since), max(until, asked.until)), resumes=True, since=rest)


def backfill(
    settings: Settings,
    ingest: Ingest,
    client_of: Callable[[JenkinsSettings], JenkinsClient],
    request: Request,
    progress: Callable[[int, int, str], None],
) -> BackfillReport:
    """Enqueue the past builds of all controllers; ``progress(done, total, job)`` is called for each job.

    May run beside the daemon, which delivers what is enqueued. Failures of Jenkins are in the report; repeating the
    backfill reads the failed jobs. Raises :class:`OutboxError`.
    """
    outbox, report = ingest.outbox, BackfillReport()
    planned = plan(outbox, request)
    if not planned.resumes and not request.dry_run:
        outbox.begin_backfill(request.words, request.span.since, min(request.span.until, outbox.clock.now_ms()))
    for controller in settings.controllers:
        client = client_of(controller)
        try:
            history = History(client, controller.name, ingest.rules.rules, ingest.rules.options.libraries)
            _Backfill(controller.name, ingest, history, request, planned, report).run(progress)
        except JenkinsError as error:
            report.problems.append(f"{controller.name}: {error}")
        finally:
            client.close()
    if not request.dry_run and not report.problems:
        outbox.end_backfill(request.words)
    return report


class _NothingIsKeptError(Exception):
    """Rolls back a dry run."""


@dataclass(frozen=True)
class _Backfill:
    """The backfill of one controller."""

    controller: str
    ingest: Ingest
    history: History
    request: Request
    plan: Plan
    report: BackfillReport

    def run(self, progress: Callable[[int, int, str], None]) -> None:
        """Raises :class:`JenkinsError` if the controller does not answer."""
        jobs = self.history.jobs()
        self.report.problems += [f"{self.controller}: {problem}" for problem in jobs.problems]
        pattern = self.request.job
        wanted = [
            (job, match) for job, match in jobs.deploying if pattern is None or pattern.match(job.full_name) is not None
        ]
        done = self._done()
        for index, (job, match) in enumerate(wanted):
            progress(index, len(wanted), job.full_name)
            self._read(job, match, is_done=job.full_name in done)
        progress(len(wanted), len(wanted), "")

    def _done(self) -> set[str]:
        if not self.plan.resumes:
            return set()
        return self.ingest.outbox.backfilled_jobs(self.request.words, self.controller)

    def _read(self, job: Job, match: Match, *, is_done: bool) -> None:
        """Read one job. A failure is recorded in the report, and the other jobs are read."""
        self.report.jobs += 1
        self.report.jobs_done_before += is_done
        span = self.plan.since if is_done else self.plan.span
        if span is None:
            return
        try:
            for page in self.history.builds(job, match, span):
                _report(self.ingest, self.controller, page, self.report, dry_run=self.request.dry_run)
        except (ControllerDownError, StoppedError, OutboxError):
            raise
        except Exception as error:
            if not isinstance(error, JenkinsError):
                log.exception("job cannot be read", controller=self.controller, job=job.full_name)
            self.report.problems.append(f"{self.controller}: job {job.full_name}: {in_words(error)}")
        else:
            if not self.request.dry_run:
                self.ingest.outbox.note_backfilled_job(self.request.words, self.controller, job.full_name)


class NotDueError(Exception):
    """A build of which no event can be made now. The message says why."""


def read_build(settings: Settings, client: JenkinsClient, controller: str, full_name: str, number: int) -> Build:
    """One final build of a job that a rule matches, for :func:`backfill_build`.

    Raises :class:`NotDueError` and :class:`JenkinsError`.
    """
    match = first_match(settings.rules, full_name)
    if match is None:
        raise NotDueError("no [[deployment]] rule matches the job")
    if roots := settings.roots_elsewhere(controller, full_name):
        raise NotDueError(f"the job is in none of the folders in [[jenkins]] roots: {', '.join(roots)}")
    job = next((job for job in client.snapshot().jobs if job.full_name == full_name), None)
    if job is None:
        raise NotDueError("Jenkins does not list the job")
    raw, build = History(client, controller, settings.rules, settings.options.libraries).build(job, match, number)
    if raw.phase is not Phase.FINAL:
        raise NotDueError("the build is not final; the agent reports it when it is")
    return build


def backfill_build(ingest: Ingest, build: Build) -> BackfillReport:
    """Enqueue one final build. Raises :class:`OutboxError`."""
    report = BackfillReport(jobs=1)
    _report(ingest, build.controller, [build], report, dry_run=False)
    return report


def _report(ingest: Ingest, controller: str, builds: Sequence[Build], report: BackfillReport, *, dry_run: bool) -> None:
    """Process one page of builds. Builds with deployments are not changed."""
    outbox = ingest.outbox
    state = outbox.controller(controller)
    now = outbox.clock.now_ms() + offset_ms(state.clock_ahead_ms if state else None)
    report.builds += len(builds)
    unknown, before = list[Fact](), set[str | None]()
    for build in builds:
        run = jenkins_run(build.controller, build.job, build.number)
        if outbox.was_reported(run, build.started_at):
            report.known += 1
            continue
        unknown.append(facts.final(run, build, at=now, source="backfill"))
        if rows := outbox.of_run(run):  # it sent a report, or these belong to another build with the same number
            before.update(each.deployment_id for each in rows)
            report.known += any(not each.known for each in rows)
    for each in _accept(ingest, unknown, dry_run=dry_run).deployments:
        if each.deployment_id in before:
            continue
        if each.state is State.PENDING:
            report.enqueued.append(str(each.deployment_id))
            if dry_run:
                report.planned.append(_planned(each))
        elif each.state is State.FAILED:
            report.underivable[str(each.deployment_id)] = each.reason or ""


def _accept(ingest: Ingest, found: Sequence[Fact], *, dry_run: bool) -> Accepted:
    """A dry run does the same work and rolls it back."""
    with _taken_back(ingest.outbox) if dry_run else nullcontext():
        return ingest.accept(found)


def _planned(row: Deployment) -> PlannedEvent:
    content = row.content
    return PlannedEvent(str(row.deployment_id), content.status.value, content.environment, rfc3339(content.ended_at))


@contextmanager
def _taken_back(outbox: Outbox) -> Iterator[None]:
    with suppress(_NothingIsKeptError), outbox.transaction():
        yield
        raise _NothingIsKeptError
