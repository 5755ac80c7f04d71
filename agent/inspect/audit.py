"""``audit``: the outcome of every build number of every deploying job, compared with Jenkins' build counter."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING

import msgspec

from agent.config.rules import first_match
from agent.deployments.derive import derive
from agent.deployments.nothing import id_is_taken, why_nothing
from agent.deployments.plan import kept_builds
from agent.inspect.derived import rules_of, taken_ids
from agent.model.deployment import Scope, State
from agent.model.endings import Ending
from agent.model.ids import run_id
from agent.model.keys import JENKINS, Project, jenkins_run
from agent.model.times import rfc3339
from agent.outbox.values import Filter, Page
from agent.sources.jenkins.client import JenkinsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from agent.config.rules import Pattern
    from agent.config.settings import JenkinsSettings, Settings
    from agent.deployments.derive import Rules
    from agent.model.deployment import Deployment
    from agent.model.endings import Ended
    from agent.outbox.interface import Outbox
    from agent.outbox.values import JobCursor, OpenBuild, RunState
    from agent.sources.jenkins.client import JenkinsClient, Snapshot

# A controller that was polled within this number of intervals, or within ten minutes, counts as polled.
_INTERVALS = 10
_PATIENCE_MS = 600_000
_PAGE = 1_000
_RUNS = 200
_SET_ASIDE = 10_000


class Outcome(StrEnum):
    """The outcome of a build number: one of these, or an :class:`Ending` other than READ."""

    EVENT = "event"
    DISCARDED = "discarded"
    NO_DEPLOYMENT = "no deployment"
    HISTORY = "history"
    NO_RULE = "no rule"
    RUNNING = "running"
    WAITING = "waiting"
    UNREADABLE = "unreadable"
    BEFORE_AUDIT = "before audit"
    FORMER_NAME = "former name"
    NOT_POLLED = "not polled"
    UNACCOUNTED = "unaccounted"


# These are listed regardless of ``since``.
_OF_NOW = (Outcome.RUNNING, Outcome.WAITING, Outcome.NOT_POLLED, Outcome.UNACCOUNTED)
# Numbers that can have a deployment from a poll, not only from a backfill or a report.
_WITH_DEPLOYMENT = (Ending.READ, Ending.BEFORE_AUDIT, Ending.FORMER_NAME)
_WHY = {
    Ending.HISTORY: "ended before the agent began to report the job",
    Ending.NO_RULE: "no rule matched the job at that time",
    Ending.UNREADABLE: "discarded, deleted or never used: Jenkins does not show which",
    Ending.BEFORE_AUDIT: "older than the version that records the outcome of each number",
    Ending.FORMER_NAME: "read when the job had another name",
    Ending.NO_DEPLOYMENT: "the rule gave no deployment",
}


class BuildsView(msgspec.Struct, frozen=True):
    """The builds ``first`` to ``last``, which have the same outcome; ``at``: the time of the outcome (RFC 3339)."""

    first: int
    last: int
    outcome: Outcome
    detail: str
    at: str | None


class JobAudit(msgspec.Struct, frozen=True):
    """One job. ``given_away``: how many build numbers Jenkins has assigned. It is the sum of the ``numbers``.

    ``gone``: Jenkins does not list the job; ``given_away`` is then the last known count.
    """

    controller: str
    job: str
    given_away: int
    gone: bool
    numbers: dict[str, int]
    builds: list[BuildsView]


class Audit(msgspec.Struct, frozen=True):
    """``audit --json``. ``unaccounted``: how many numbers have no known outcome. If it is not 0, there is a bug."""

    since: str
    jobs: list[JobAudit]
    unaccounted: int
    problems: list[str]


def audit(
    settings: Settings,
    outbox: Outbox,
    client_of: Callable[[JenkinsSettings], JenkinsClient],
    *,
    since: int,
    jobs: Pattern | None = None,
) -> Audit:
    """The outcome of every number. ``since`` (UTC ms): older builds are counted, but not listed.

    Sends each controller the request of one poll. Failures of a controller are listed in ``problems``.
    Raises :class:`agent.outbox.values.OutboxError`.
    """
    problems: list[str] = []
    found: list[JobAudit] = []
    rules = rules_of(settings)
    for controller in settings.controllers:
        client = client_of(controller)
        try:
            snapshot = client.snapshot()
        except JenkinsError as error:
            problems.append(f"{controller.name}: cannot read the build counters: {error}")
            continue
        finally:
            client.close()
        problems += [f"{controller.name}: {problem}" for problem in snapshot.problems]
        of_controller = _Controller(controller.name, snapshot, outbox, rules, since)
        audited = [of_controller.job(each) for each in of_controller.jobs(jobs)]
        problems += _not_polled(controller, outbox, audited)
        found += audited
    unaccounted = sum(job.numbers.get(Outcome.UNACCOUNTED, 0) for job in found)
    return Audit(rfc3339(since), found, unaccounted, problems)


def _not_polled(controller: JenkinsSettings, outbox: Outbox, jobs: Iterable[JobAudit]) -> Iterator[str]:
    """Builds that wait for a poll, on a controller that is not polled any more."""
    waiting = sum(job.numbers.get(Outcome.NOT_POLLED, 0) for job in jobs)
    state = outbox.controller(controller.name)
    polled_at = None if state is None else state.polled_at
    patience = max(_INTERVALS * controller.poll_interval_ms, _PATIENCE_MS)
    if waiting and (polled_at is None or outbox.clock.now_ms() - polled_at > patience):
        when = "was never polled" if polled_at is None else f"was last polled at {rfc3339(polled_at)}"
        yield f"{controller.name}: {waiting} build(s) wait for a poll, but the controller {when}. Is the agent running?"


@dataclass(frozen=True)
class _Job:
    """A deploying job: its name, Jenkins' build counter (None: Jenkins does not list the job), and the cursor."""

    name: str
    next_build_number: int | None
    cursor: JobCursor | None


@dataclass
class _Lines:
    """Collects the lines. Adjacent numbers with the same outcome are one line."""

    since: int
    counts: Counter[str] = field(default_factory=Counter)
    views: list[BuildsView] = field(default_factory=list)

    def add(self, first: int, last: int, outcome: Outcome, detail: str, at: int | None) -> None:
        if first > last:
            return
        self.counts[outcome] += last - first + 1
        if outcome not in _OF_NOW and at is not None and at < self.since:
            return
        when = None if at is None else rfc3339(at)
        before = self.views[-1] if self.views else None
        if before and before.last + 1 == first and (before.outcome, before.detail) == (outcome, detail):
            first = before.first
            self.views.pop()
        self.views.append(BuildsView(first, last, outcome, detail, when))


@dataclass(frozen=True)
class _Rows:
    """The deployments of the newest build of one number: its start, their states, and the latest end.

    ``staged``: stages of the build reported themselves, so the rule adds nothing.
    """

    started_at: int
    states: tuple[State, ...]
    at: int
    staged: bool

    def and_of(self, row: Deployment) -> _Rows:
        """With one more deployment. Deployments of an older build with the same number are ignored."""
        if row.build_started_at != self.started_at:
            return self if row.build_started_at < self.started_at else _rows(row)
        more = _rows(row)
        return _Rows(
            self.started_at, (*self.states, *more.states), max(self.at, more.at), staged=self.staged or more.staged
        )

    def may_be_of(self, build: OpenBuild) -> bool:
        """Whether the deployments can be reports of this open build, and not of an older build with its number."""
        return build.started_at is not None and self.started_at >= build.started_at

    @property
    def outcome(self) -> Outcome:
        """Discarded if all deployments are."""
        return Outcome.DISCARDED if set(self.states) == {State.DISCARDED} else Outcome.EVENT

    @property
    def detail(self) -> str:
        """The states of the deployments: ``delivered``, or ``2 delivered, 1 failed``."""
        counted = Counter(state.value for state in self.states)
        states = ", ".join(f"{n} {state}" for state, n in sorted(counted.items()))
        states = self.states[0].value if len(self.states) == 1 else states
        return f"{states}; the build reported itself, so the rule adds no event" if self.staged else states


def _rows(row: Deployment) -> _Rows:
    staged = any(name.scope is Scope.STAGE for name in row.names)
    return _Rows(row.build_started_at, (row.state,), row.content.ended_at, staged=staged)


class _Controller:
    """The jobs of one controller."""

    def __init__(self, name: str, snapshot: Snapshot, outbox: Outbox, rules: Rules, since: int) -> None:
        self._name = name
        self._snapshot = snapshot
        self._counters = {job.full_name: job.next_build_number for job in snapshot.jobs}
        self._outbox = outbox
        self._rules = rules
        self._since = since
        self._open = outbox.open_builds(name)
        self._set_aside = {item.subject for item in outbox.things_set_aside(_SET_ASIDE) if item.kind == "run"}

    def jobs(self, among: Pattern | None) -> list[_Job]:
        """Jobs that match a rule, listed by Jenkins or known to the outbox. ``among``: only these names; None: all."""
        cursors = self._outbox.jobs(self._name)
        names = sorted(self._counters.keys() | {name for name in cursors if self._snapshot.would_list(name)})
        return [
            _Job(name, self._counters.get(name), cursors.get(name))
            for name in names
            if first_match(self._rules.rules, name) is not None and (among is None or among.match(name) is not None)
        ]

    def job(self, job: _Job) -> JobAudit:
        """Every number of one job, from 1 to Jenkins' counter."""
        polled = job.cursor.next_build_number if job.cursor is not None else 1
        end = polled if job.next_build_number is None else job.next_build_number
        if end < polled:
            polled = 1  # the job was created again since the last poll
        endings = self._outbox.endings(self._name, job.name)
        told, opened = self._told_of(job, endings), {build.number: build for build in self._open.get(job.name, ())}
        apart, lines = sorted(told.keys() | opened.keys()), _Lines(self._since)
        for first, last, ended in _gapless(endings, polled):
            begin = first
            for number in _between(apart, first, last):
                self._plain(lines, job, begin, number - 1, ended)
                self._told(lines, number, opened.get(number), told.get(number))
                begin = number + 1
            self._plain(lines, job, begin, last, ended)
        lines.add(polled, end - 1, Outcome.NOT_POLLED, "the next poll will read it", None)
        return JobAudit(self._name, job.name, end - 1, job.next_build_number is None, dict(lines.counts), lines.views)

    def _told_of(self, job: _Job, endings: Iterable[Ended]) -> dict[int, _Rows]:
        """The deployments of a job by number.

        If two jobs swapped their names, a deployment under either name can be of the other job. Then only numbers
        that were read under this name are included.
        """
        project = Project(JENKINS, self._name, job.name)
        formers = self._outbox.former_names(project)
        found = self._deployments((project, *formers))
        if not any(former.name in self._counters for former in formers):
            return found
        read = [range(each.first, each.last + 1) for each in endings if each.ending in _WITH_DEPLOYMENT]
        return {number: rows for number, rows in found.items() if any(number in span for span in read)}

    def _deployments(self, names: Iterable[Project]) -> dict[int, _Rows]:
        """The deployments by number, under all names that the job has had."""
        found: dict[int, _Rows] = {}
        for each in names:
            before: int | None = None
            while rows := self._outbox.query(Filter(project=each), Page(_PAGE, before)):
                for row in rows:
                    if row.run.number.isdecimal():
                        known = found.get(number := int(row.run.number))
                        found[number] = _rows(row) if known is None else known.and_of(row)
                before = rows[-1].number
        return found

    def _told(self, lines: _Lines, number: int, build: OpenBuild | None, rows: _Rows | None) -> None:
        if rows is not None and (build is None or rows.may_be_of(build)):
            lines.add(number, number, rows.outcome, rows.detail, rows.at)
        elif build is not None and build.seen and build.waiting_since is None:
            lines.add(number, number, Outcome.RUNNING, "", build.first_seen_at or None)
        elif build is not None:
            why = "will be read again" if build.seen else "Jenkins has assigned the number, but shows no build yet"
            lines.add(number, number, Outcome.WAITING, why, build.first_seen_at or None)

    def _plain(self, lines: _Lines, job: _Job, first: int, last: int, ended: Ended | None) -> None:
        """Add numbers that have no deployment and are not open."""
        if first > last:
            return
        if ended is None:
            self._not_noted(lines, job, first, last)
        elif ended.ending is Ending.READ:
            self._read(lines, job, first, last, ended.at)
        else:
            lines.add(first, last, Outcome(ended.ending), _WHY[ended.ending], ended.at)

    def _not_noted(self, lines: _Lines, job: _Job, first: int, last: int) -> None:
        since = job.cursor.no_rule_since if job.cursor is not None else None
        if since is not None and last >= since:
            middle = max(first, since)
            lines.add(first, middle - 1, Outcome.UNACCOUNTED, "nothing is known about it", None)
            lines.add(middle, last, Outcome.NO_RULE, _WHY[Ending.NO_RULE], None)
        else:
            lines.add(first, last, Outcome.UNACCOUNTED, "nothing is known about it", None)

    def _read(self, lines: _Lines, job: _Job, first: int, last: int, at: int) -> None:
        """Add builds that were read and have no deployment. Builds without facts had one that was deleted."""
        numbers = iter(range(first, last + 1))
        while chunk := list(islice(numbers, _RUNS)):
            runs = {number: jenkins_run(self._name, job.name, number) for number in chunk}
            states = self._outbox.load(list(runs.values()))
            for number, run in runs.items():
                if states[run].facts:
                    lines.add(number, number, Outcome.NO_DEPLOYMENT, self._why_none(states[run]), at)
                else:
                    lines.add(number, number, Outcome.EVENT, "deleted after [outbox] keep_deployments", at)

    def _why_none(self, state: RunState) -> str:
        if run_id(state.run) in self._set_aside:
            return "set aside after an unexpected error: see hivel-agent explain"
        if taken := taken_ids(state.facts, state.deployments, self._rules, self._outbox):
            return id_is_taken(taken[0])
        if derive(state.facts, self._rules, kept_builds(state.deployments)).parts:
            return "the rules have changed since it was read: see hivel-agent explain"
        return why_nothing(state.facts, self._rules, state.run.project)


def _gapless(endings: Iterable[Ended], end: int) -> Iterator[tuple[int, int, Ended | None]]:
    """All numbers below ``end``: the recorded ranges, and the gaps between them."""
    begin = 1
    for ended in endings:
        if ended.first >= end:
            break
        if begin < ended.first:
            yield begin, ended.first - 1, None
        yield ended.first, min(ended.last, end - 1), ended
        begin = ended.last + 1
    if begin < end:
        yield begin, end - 1, None


def _between(numbers: Sequence[int], first: int, last: int) -> Sequence[int]:
    """The sorted numbers that are in the range."""
    return numbers[bisect_left(numbers, first) : bisect_right(numbers, last)]
