"""Reporting history on demand: resumable, and doubling nothing that was reported before."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agent.ingest.told import told_by
from agent.outbox.cursors import Cursors
from agent.outbox.sqlite.store import Entry
from agent.sources.jenkins.client import JenkinsError
from agent.sources.jenkins.history import History, PastBuild, Span

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.config.rules import Match, Pattern
    from agent.config.settings import JenkinsSettings, Settings
    from agent.outbox.sqlite.store import Outbox
    from agent.sources.jenkins.client import JenkinsClient, Job


@dataclass(frozen=True)
class Request:
    """What to report. ``words`` are the arguments as given: the same words resume an interrupted backfill."""

    span: Span
    words: str
    job: Pattern | None = None
    dry_run: bool = False


@dataclass
class BackfillReport:
    """What a backfill did, or with ``dry_run`` would do. Lists hold deployment_ids."""

    jobs: int = 0
    jobs_done_before: int = 0
    builds: int = 0
    enqueued: list[str] = field(default_factory=list)
    underivable: dict[str, str] = field(default_factory=dict)
    known: int = 0
    problems: list[str] = field(default_factory=list)


class Resumable:
    """Which jobs an interrupted backfill has done; kept in the outbox until it is complete."""

    def __init__(self, outbox: Outbox, request: Request) -> None:
        self._outbox = outbox
        self._words = request.words
        found = outbox.connection.execute(
            "SELECT since, until FROM backfills WHERE id = ?", (request.words,)
        ).fetchone()
        self.span = Span(*found) if found else request.span

    def begin(self) -> None:
        """Remember the span: ``7d`` means the same seven days when it is resumed tomorrow."""
        with self._outbox.transaction() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO backfills (id, since, until) VALUES (?, ?, ?)",
                (self._words, self.span.since, self.span.until),
            )

    def done(self, controller: str) -> set[str]:
        """The full names of the jobs that are done."""
        found = self._outbox.connection.execute(
            "SELECT full_name FROM backfilled_jobs WHERE id = ? AND controller = ?", (self._words, controller)
        ).fetchall()
        return {row[0] for row in found}

    def note(self, controller: str, full_name: str) -> None:
        """This job is done."""
        with self._outbox.transaction() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO backfilled_jobs (id, controller, full_name) VALUES (?, ?, ?)",
                (self._words, controller, full_name),
            )

    def end(self) -> None:
        """All is done: the same words ask anew."""
        with self._outbox.transaction() as connection:
            connection.execute("DELETE FROM backfills WHERE id = ?", (self._words,))


def backfill(
    settings: Settings,
    outbox: Outbox,
    client_of: Callable[[JenkinsSettings], JenkinsClient],
    request: Request,
    progress: Callable[[int, int, str], None],
) -> BackfillReport:
    """Enqueue the past builds of all controllers; ``progress(done, total, job)`` is called for each job.

    May run beside the daemon, which delivers what is enqueued. What Jenkins does wrong is in the report; the jobs
    concerned are done when it is repeated.
    """
    report = BackfillReport()
    resumable = Resumable(outbox, request)
    if not request.dry_run:
        resumable.begin()
    for controller in settings.controllers:
        client = client_of(controller)
        try:
            history = History(client, controller.name, settings.rules, settings.options)
            _controller(_Work(outbox, history, controller.name, resumable, request, report), progress)
        except JenkinsError as error:
            report.problems.append(f"{controller.name}: {error}")
        finally:
            client.close()
    if not request.dry_run and not report.problems:
        resumable.end()
    return report


@dataclass(frozen=True)
class _Work:
    outbox: Outbox
    history: History
    controller: str
    resumable: Resumable
    request: Request
    report: BackfillReport


def _controller(work: _Work, progress: Callable[[int, int, str], None]) -> None:
    jobs = work.history.jobs()
    work.report.problems += [f"{work.controller}: {problem}" for problem in jobs.problems]
    pattern = work.request.job
    wanted = [
        (job, match) for job, match in jobs.deploying if pattern is None or pattern.match(job.full_name) is not None
    ]
    done = set() if work.request.dry_run else work.resumable.done(work.controller)
    for index, (job, match) in enumerate(wanted):
        progress(index, len(wanted), job.full_name)
        work.report.jobs += 1
        if job.full_name in done:
            work.report.jobs_done_before += 1
            continue
        try:
            _job(work, job, match)
        except JenkinsError as error:
            work.report.problems.append(f"{work.controller}: job {job.full_name}: {error}")
    progress(len(wanted), len(wanted), "")


def _job(work: _Work, job: Job, match: Match) -> None:
    former_names = Cursors(work.outbox, work.controller).former_names(job.full_name)
    for page in work.history.builds(job, match, work.resumable.span):
        work.report.builds += len(page)
        unsaid = [past for past in page if not told_by(work.outbox, past.build, former_names)]
        work.report.known += len(page) - len(unsaid)
        entries = [entry for past in unsaid for entry in _entries(past)]
        _enqueue(work, [e for e in entries if not _known(work, job.full_name, e, former_names)], len(entries))
    if not work.request.dry_run:
        work.resumable.note(work.controller, job.full_name)


def _entries(past: PastBuild) -> list[Entry]:
    return [
        Entry(found.deployment_id, past.build.started_at, past.source, found.event, found.reason)
        for found in past.derivations
    ]


def _known(work: _Work, job: str, entry: Entry, former_names: list[str]) -> bool:
    """Whether the build was reported before, under this name of the job or a former one."""
    prefix = f"{work.controller}:{job}#"
    rest = entry.deployment_id.removeprefix(prefix)
    return any(work.outbox.knows(f"{work.controller}:{name}#{rest}", entry.started_at) for name in (job, *former_names))


def _enqueue(work: _Work, fresh: list[Entry], of: int) -> None:
    added = fresh if work.request.dry_run else work.outbox.enqueue(fresh)
    work.report.known += of - len(added)
    for entry in added:
        if entry.event is None:
            work.report.underivable[entry.deployment_id] = entry.reason or ""
        else:
            work.report.enqueued.append(entry.deployment_id)
