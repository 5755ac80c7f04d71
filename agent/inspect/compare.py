"""``preview --compare``: which events of the last days would be different under the current rules.

Compares the outbox with the same builds in Jenkins and with the reports of the builds. Only reads: a daemon can use
the outbox at the same time.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from agent.inspect.derived import rules_of
from agent.inspect.differences import DELETED, Change, Difference, compare_run, with_reading
from agent.inspect.preview import is_of_controller, is_wanted
from agent.model import fact as facts
from agent.model.deployment import State  # noqa: TC001 - a field of a struct
from agent.model.keys import JENKINS, Project, jenkins_run
from agent.model.status import Status
from agent.model.times import rfc3339
from agent.outbox.values import Filter, Page
from agent.sources.jenkins.errors import JenkinsError
from agent.sources.jenkins.history import History, Span

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from agent.config.rules import Match, Pattern
    from agent.config.settings import JenkinsSettings, Settings
    from agent.deployments.derive import Rules
    from agent.model.build import Build
    from agent.model.deployment import Deployment
    from agent.model.keys import Run
    from agent.outbox.interface import Outbox
    from agent.outbox.values import RunState
    from agent.sources.jenkins.client import JenkinsClient, Job

# The maximum number of events that are listed. All are counted.
MOST_LISTED = 1_000
_PIECE = 200
_WEEK_MS = 7 * 86_400_000
NOT_ASKED = "its facts are deleted, and Jenkins was not asked"
NOT_LISTED = "its facts are deleted, and the agent cannot see the job in Jenkins"
NOT_READ = "it could not be read from Jenkins: see the problems"
BEYOND = "only the newest builds of the job were read from Jenkins: see --builds"


class ComparedEvent(msgspec.Struct, frozen=True):
    """One event that differs. ``controller`` and ``job``: for other CI systems, their scope and project.

    ``state``: the state in the outbox; None for an event that is not there.
    """

    controller: str
    job: str
    state: State | None
    difference: Difference


class JobFigures(msgspec.Struct, frozen=True):
    """Deployments and failed deployments of a job in the span: in the outbox, and by the current rules."""

    controller: str
    job: str
    deployments_before: int
    deployments_now: int
    failures_before: int
    failures_now: int


class Comparison(msgspec.Struct, frozen=True):
    """``preview --compare --json``. ``counts``: events by :class:`Change`. ``fields``: changes by field.

    ``not_comparable``: events by reason. ``jobs``: jobs whose figures would change. ``weeks``: length of the span.
    ``not_read``: builds that the poller has not read yet. ``left_out``: events that are counted, but not listed.
    """

    since: str
    weeks: float
    asked_jenkins: bool
    counts: dict[Change, int]
    fields: dict[str, int]
    not_comparable: dict[str, int]
    events: list[ComparedEvent]
    left_out: int
    jobs: list[JobFigures]
    not_read: int
    problems: list[str]

    @property
    def differs(self) -> bool:
        """Whether any event would be different."""
        return any(self.counts[change] for change in (Change.CHANGED, Change.GONE, Change.NEW))


def compare(
    settings: Settings,
    outbox: Outbox,
    client_of: Callable[[JenkinsSettings], JenkinsClient] | None,
    span: Span,
    most_builds: int,
    *,
    jobs: Pattern | None = None,
) -> Comparison:
    """Compare the events of builds that ended in the span. ``client_of`` None: use the stored facts only.

    At most the newest ``most_builds`` of each job are read from Jenkins. Failures are listed in ``problems``.
    ``jobs``: only jobs that match.

    The span does not begin before the oldest kept deployment, so deleted deployments do not look like new ones.
    """
    now = outbox.clock.now_ms()
    span = Span(max(span.since, now - settings.keep_deployments_ms), span.until)
    found = _Found()
    seen = _Seen()
    clients = [] if client_of is None else [(each, client_of(each)) for each in settings.controllers]
    for controller, client in clients:
        try:
            history = History(client, controller.name, settings.rules, settings.options.libraries)
            _Controller(controller.name, history, outbox, rules_of(settings), found, seen, most_builds, jobs).read(span)
        except JenkinsError as error:
            found.problems.append(f"{controller.name}: {error}")
            seen.unreadable.add(controller.name)
        finally:
            client.close()
    _kept(outbox, rules_of(settings), found, seen, span, jobs=jobs, asked=client_of is not None)
    weeks = max(now - span.since, 0) / _WEEK_MS
    return found.comparison(rfc3339(span.since), weeks, asked=client_of is not None)


# ---- what is found


@dataclass
class _Figures:
    before: int = 0
    now: int = 0
    failed_before: int = 0
    failed_now: int = 0

    def count(self, difference: Difference) -> None:
        before, now = difference.before, difference.now
        self.before += before is not None
        self.now += now is not None
        self.failed_before += before is Status.FAILED
        self.failed_now += now is Status.FAILED

    @property
    def changed(self) -> bool:
        return (self.before, self.failed_before) != (self.now, self.failed_now)


@dataclass
class _Found:
    """Counts all events, and lists the first that differ."""

    counts: Counter[Change] = field(default_factory=Counter)
    fields: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    events: list[ComparedEvent] = field(default_factory=list)
    figures: dict[tuple[str, str], _Figures] = field(default_factory=dict)
    not_read: int = 0
    problems: list[str] = field(default_factory=list)

    def note(self, project: Project, row: Deployment | None, difference: Difference) -> None:
        self.counts[difference.change] += 1
        key = (project.scope, project.name)
        self.figures.setdefault(key, _Figures()).count(difference)
        if difference.change is Change.UNKNOWN:
            self.reasons[difference.reason] += 1
        self.fields.update(each.field for each in difference.fields)
        if difference.change not in (Change.SAME, Change.UNKNOWN) and len(self.events) < MOST_LISTED:
            self.events.append(ComparedEvent(*key, None if row is None else row.state, difference))

    def comparison(self, since: str, weeks: float, *, asked: bool) -> Comparison:
        differing = sum(self.counts[change] for change in (Change.CHANGED, Change.GONE, Change.NEW))
        return Comparison(
            since=since,
            weeks=round(weeks, 2),
            asked_jenkins=asked,
            counts={change: self.counts[change] for change in Change},
            fields=dict(self.fields.most_common()),
            not_comparable=dict(self.reasons.most_common()),
            events=self.events,
            left_out=differing - len(self.events),
            jobs=[
                JobFigures(*key, each.before, each.now, each.failed_before, each.failed_now)
                for key, each in sorted(self.figures.items())
                if each.changed
            ],
            not_read=self.not_read,
            problems=self.problems,
        )


@dataclass
class _Seen:
    """Rows that are already compared, and the reasons why others may be missing."""

    rows: set[int] = field(default_factory=set)
    whys: dict[Project, str] = field(default_factory=dict)
    unreadable: set[str] = field(default_factory=set)

    def why(self, project: Project, *, asked: bool) -> str:
        """Why no build of this project was read from Jenkins."""
        if not asked or project.provider != JENKINS:
            return NOT_ASKED
        return NOT_READ if project.scope in self.unreadable else self.whys.get(project, NOT_LISTED)


# ---- builds in Jenkins


@dataclass
class _Controller:
    """The jobs of one controller that match a rule."""

    name: str
    history: History
    outbox: Outbox
    rules: Rules
    found: _Found
    seen: _Seen
    most_builds: int
    jobs: Pattern | None

    def read(self, span: Span) -> None:
        """Raises :class:`JenkinsError` when the whole controller cannot be read."""
        jobs = self.history.jobs()
        self.found.problems.extend(f"{self.name}: {problem}" for problem in jobs.problems)
        self.seen.whys.update({Project(JENKINS, self.name, job.full_name): NOT_ASKED for job in jobs.others})
        for job, match in jobs.deploying:
            if not is_wanted(self.jobs, job.full_name):
                continue
            self.seen.whys[Project(JENKINS, self.name, job.full_name)] = DELETED
            try:
                self._job(job, match, span)
            except JenkinsError as error:
                if is_of_controller(error):
                    raise
                self.found.problems.append(f"{self.name}: job {job.full_name}: {error}")
                self.seen.whys[Project(JENKINS, self.name, job.full_name)] = NOT_READ

    def _job(self, job: Job, match: Match, span: Span) -> None:
        project, left = Project(JENKINS, self.name, job.full_name), self.most_builds
        unread = self._unread(job)
        for page in self.history.builds(job, match, span):
            self._builds(project, page[:left], unread)
            left -= len(page)
            if left <= 0:
                self.seen.whys[project] = BEYOND
                return

    def _unread(self, job: Job) -> Callable[[Build], bool]:
        """Tells whether the poller has not read a build: it will be read later, or never if it is too old."""
        cursor, state = self.outbox.job(self.name, job.full_name), self.outbox.controller(self.name)
        following = {each.number for each in self.outbox.open_builds(self.name).get(job.full_name, [])}

        def unread(build: Build) -> bool:
            if state is None or state.report_from is None or build.ended_at < state.report_from:
                return True
            return build.number in following or (cursor is not None and build.number >= cursor.next_build_number)

        return unread

    def _builds(self, project: Project, builds: Sequence[Build], unread: Callable[[Build], bool]) -> None:
        runs = {jenkins_run(self.name, project.name, build.number): build for build in builds}
        for run, state in self.outbox.load(runs).items():
            build = runs[run]
            fresh = facts.final(run, build, at=build.ended_at)
            read = replace(state, facts=tuple(with_reading(state.facts, fresh, self.rules)))
            is_unread = unread(build)
            self.found.not_read += is_unread and not state.deployments
            compared = compare_run(read, self.rules, read=build.started_at, may_be_new=not is_unread)
            for _, row, difference in compared:
                self.found.note(project, row, difference)
            self.seen.rows.update(row.number for row in state.deployments if row.build_started_at == build.started_at)
            self.seen.rows.update(each.row.number for each in compared if each.row is not None)


# ---- stored facts


def _kept(
    outbox: Outbox, rules: Rules, found: _Found, seen: _Seen, span: Span, *, jobs: Pattern | None, asked: bool
) -> None:
    """Compare the rows that Jenkins gave no build for, by their stored facts."""
    for project in outbox.projects(span.since):
        if not is_wanted(jobs, project.name):
            continue
        why = seen.why(project, asked=asked)
        for runs in _runs(outbox, project, seen, span):
            for state in outbox.load(runs).values():
                _note_kept(state, runs[state.run], rules, found, why)


def _runs(outbox: Outbox, project: Project, seen: _Seen, span: Span) -> Iterator[dict[Run, set[int]]]:
    """The runs of a project, page by page, with the numbers of their rows that are not compared yet."""
    page = Page(_PIECE)
    done = set[int]()
    while rows := outbox.query(Filter(project=project, build_ended_since=span.since), page):
        fresh = [row for row in rows if row.number not in seen.rows and row.number not in done]
        runs: dict[Run, set[int]] = {row.run: set() for row in fresh if row.build_ended_at < span.until}
        for run, state in outbox.load(runs).items():
            runs[run] = {row.number for row in state.deployments if row.number not in seen.rows}
            done |= runs[run]
        yield runs
        page = Page(_PIECE, before=rows[-1].number)


def _note_kept(state: RunState, numbers: set[int], rules: Rules, found: _Found, why: str) -> None:
    """Record the differences of the builds that have one of these rows."""
    compared = compare_run(state, rules, without=why)
    builds = {each.build for each in compared if each.row is not None and each.row.number in numbers}
    for build, row, difference in compared:
        if build in builds and (row is None or row.number in numbers):
            found.note(state.run.project, row, difference)
