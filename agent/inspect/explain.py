"""``explain``: why one build did or did not become an event."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from agent.config.rules import Match, described, first_match
from agent.deployments.derive import derive
from agent.deployments.nothing import id_is_taken, why_nothing
from agent.deployments.plan import kept_builds
from agent.inspect.derived import DerivedView, of_run, rules_of, taken_ids
from agent.inspect.queue import DifferenceView, FactView, Queue, fact_view
from agent.inspect.stages import StagesView, stages_view
from agent.inspect.target import Target, TargetError, target_of_name, target_of_url
from agent.inspect.words import Told, WordView, told, words_of
from agent.model import fact as facts
from agent.model.fact import Kind
from agent.model.ids import run_id
from agent.model.keys import JENKINS, Run, jenkins_run
from agent.model.times import rfc3339
from agent.outbox.values import RunState
from agent.sources.jenkins.client import JenkinsError, Job, NotFoundError
from agent.sources.jenkins.history import History
from agent.sources.jenkins.raw import Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agent.config.settings import JenkinsSettings, Settings
    from agent.deployments.derive import Part
    from agent.model.build import Build
    from agent.model.fact import Fact
    from agent.model.keys import Project
    from agent.outbox.interface import Outbox
    from agent.outbox.values import SetAside
    from agent.sources.jenkins.client import JenkinsClient
    from agent.sources.jenkins.raw import RawBuild

# The maximum number of set-aside items that are searched for the run.
_SET_ASIDE = 10_000


class StoredView(msgspec.Struct, frozen=True):
    """A deployment in the outbox. Times are RFC 3339. ``differences``: fields that Hivel has with other values.

    ``id``: its number, as in ``queue list``.
    """

    id: int
    deployment_id: str
    state: str
    enqueued_at: str
    attempts: int
    reason: str | None
    differences: list[DifferenceView]


class Explanation(msgspec.Struct, frozen=True):
    """``explain --json``. ``verdict`` is the answer in one sentence.

    ``facts``: the stored facts about the build. ``words``: by deployment_id and field, all values and their sources,
    for fields that have more than one. ``stages``: only if the rule has ``stage``. ``set_aside``: an unexpected error
    while the deployments were derived, with its traceback. ``wanted``: the build reported itself, and the next poll
    reads it. ``problem``: why Jenkins could not be asked.
    """

    build: str
    verdict: str
    rule: str | None
    jenkins: str
    derived: list[DerivedView]
    words: dict[str, dict[str, list[WordView]]]
    stages: StagesView | None
    outbox: list[StoredView]
    facts: list[FactView]
    set_aside: str | None
    wanted: bool
    problem: str | None = None


def explain(
    settings: Settings,
    outbox: Outbox | None,
    client_of: Callable[[JenkinsSettings], JenkinsClient],
    name: str,
) -> Explanation:
    """Why a build did or did not become an event.

    ``name``: the address of a page of the build, ``CONTROLLER:JOB#NUMBER``, or the deployment_id or number of an event
    in the outbox. Raises :class:`agent.inspect.target.TargetError` if this is not a build, and :class:`JenkinsError`
    if Jenkins is needed to find the build and does not answer.
    """
    target = _target(settings, outbox, name)
    if isinstance(target, Run):
        asked = _not_asked(settings, target)
    else:
        client = client_of(target.controller)
        try:
            asked = _ask(client, settings, target)
        finally:
            client.close()
    return _Answer(settings, asked, _known(outbox, asked.run)).explanation()


def _target(settings: Settings, outbox: Outbox | None, name: str) -> Target | Run:
    """The build that ``name`` means: a :class:`Run` if it is not a build of a configured controller."""
    if "://" in name:
        return target_of_url(settings.controllers, name)
    queue = None if outbox is None else Queue(outbox, rules_of(settings), settings.hold_for_ms)
    row = None if queue is None else queue.find(name)
    if row is not None:
        project = row.run.project
        for controller in settings.controllers:
            if (project.provider, project.scope) == (JENKINS, controller.name):
                return Target(controller, (project.name,), int(row.run.number))
        return row.run
    target = target_of_name(settings.controllers, name)
    if target is None:
        build = "".join(
            f" the address of a page of the build, {each.name}:JOB#NUMBER, or" for each in settings.controllers[:1]
        )
        raise TargetError(
            f"{name!r} is neither an event in the outbox nor a build. Give{build} a deployment_id from: "
            "hivel-agent queue list"
        )
    return target


def _not_asked(settings: Settings, run: Run) -> _Asked:
    project = run.project
    if project.provider != JENKINS:
        return _Asked(run, None, f"not asked: a build of {project.provider}")
    problem = f"controller {project.scope} is not in the configuration"
    return _Asked(run, first_match(settings.rules, project.name), f"not asked: {problem}", problem=problem)


# ---- the build in Jenkins


@dataclass(frozen=True)
class _Asked:
    """The build as Jenkins has it now. ``raw`` and ``build`` are None if it cannot be read.

    ``words``: the state of the build, for people. ``problem``: why Jenkins could not be asked.
    """

    run: Run
    match: Match | None
    words: str
    raw: RawBuild | None = None
    build: Build | None = None
    problem: str | None = None


def _ask(client: JenkinsClient, settings: Settings, target: Target) -> _Asked:
    controller, job, number = target.controller.name, Job(target.jobs[0], 2, branch_job=False), target.build
    try:
        job = _job(client, target)
        if isinstance(number, str):
            number = client.build(job.full_name, number).number
        history = History(client, controller, settings.rules, settings.options.libraries)
        raw, build = history.build(job, first_match(settings.rules, job.full_name), number)
    except JenkinsError as error:
        if isinstance(number, str):
            raise
        run, match = jenkins_run(controller, job.full_name, number), first_match(settings.rules, job.full_name)
        if isinstance(error, NotFoundError):
            return _Asked(run, match, "Jenkins does not have this build, or the agent's user cannot see it")
        return _Asked(run, match, str(error), problem=str(error))
    match = first_match(settings.rules, job.full_name)
    return _Asked(jenkins_run(controller, job.full_name, number), match, _in_words(raw), raw, build)


def _job(client: JenkinsClient, target: Target) -> Job:
    """The job as Jenkins lists it, or the most likely one if Jenkins lists none of them."""
    listed = {job.full_name: job for job in client.snapshot().jobs}
    found = (listed[name] for name in target.jobs if name in listed)
    return next(found, None) or Job(target.jobs[0], 2, branch_job=False)


def _in_words(raw: RawBuild) -> str:
    match raw.phase:
        case Phase.RUNNING:
            return "still running"
        case Phase.SETTLING:
            return "ended, but its result or duration is not available yet"
        case Phase.FINAL:
            return f"{raw.result}, ended"


# ---- the build in the outbox


@dataclass(frozen=True)
class _Known:
    """The run in the outbox: facts, deployments of all builds with its number, and the error if it is set aside.

    ``wanted``: the next poll reads it.
    """

    outbox: Outbox | None
    state: RunState
    set_aside: SetAside | None = None
    wanted: bool = False


def _known(outbox: Outbox | None, run: Run) -> _Known:
    if outbox is None:
        return _Known(None, RunState(run))
    name, job = run.project.scope, run.project.name
    aside = (item for item in outbox.things_set_aside(_SET_ASIDE) if (item.kind, item.subject) == ("run", run_id(run)))
    return _Known(
        outbox,
        outbox.load([run])[run],
        next(aside, None),
        any((each.full_name, str(each.number)) == (job, run.number) for each in outbox.wanted_builds(name)),
    )


# ---- the answer


@dataclass(frozen=True)
class _Answer:
    settings: Settings
    asked: _Asked
    known: _Known

    def explanation(self) -> Explanation:
        """All data about the build."""
        known, made = self.known, self._made()
        derived = [view for _, view in made]
        return Explanation(
            build=run_id(self.asked.run),
            verdict=self._verdict(derived),
            rule=self._rule(),
            jenkins=self.asked.words,
            derived=derived,
            words={view.deployment_id: words_of(self._told(part)) for part, view in made},
            stages=self._stages(made),
            outbox=self._stored(),
            facts=[fact_view(each) for each in known.state.facts],
            set_aside=None if known.set_aside is None else known.set_aside.error,
            wanted=known.wanted,
            problem=self.asked.problem,
        )

    def _facts(self) -> tuple[Fact, ...]:
        return (*self.known.state.facts, *self._read())

    def _made(self) -> list[tuple[Part, DerivedView]]:
        """The parts that the stored facts and Jenkins give, for the build that has the number in Jenkins now."""
        build = self.asked.build
        try:
            found = of_run(self._facts(), self.known.state.deployments, rules_of(self.settings))
        except Exception:
            if self.known.set_aside is None:
                raise
            return []  # the explanation shows the error
        return [
            (part, view)
            for part, view in found
            if build is None or not part.build.known or part.build.started_at == build.started_at
        ]

    def _told(self, part: Part) -> Told:
        """The facts that the part was derived from."""
        rules, said = rules_of(self.settings), self._facts()
        return told(part, said, derive(said, rules, kept_builds(self.known.state.deployments)), rules)

    def _stages(self, made: list[tuple[Part, DerivedView]]) -> StagesView | None:
        match, build = self.asked.match, self.asked.build
        if match is None or build is None:
            return None
        events: dict[str, list[str]] = {}
        for part, view in made:
            if part.names[0].stage:
                events.setdefault(part.names[0].stage, []).append(view.deployment_id)
        return stages_view(build, match.rule, events, reported=any(part.reported for part, _ in made))

    def _read(self) -> list[Fact]:
        """The build as it was just read. A running build counts as final if it did not report itself."""
        raw, build, run = self.asked.raw, self.asked.build, self.asked.run
        if raw is None or build is None:
            return []
        if raw.phase is not Phase.FINAL and any(each.kind is Kind.REPORT for each in self.known.state.facts):
            return [facts.seen(run, started_at=raw.timestamp, at=max(raw.timestamp, raw.ended_at))]
        return [facts.final(run, build, at=build.ended_at)]

    def _stored(self) -> list[StoredView]:
        """All deployments of the run: several environments, repositories, or builds with the same number."""
        outbox, rows = self.known.outbox, self.known.state.deployments
        if outbox is None:
            return []
        queue = Queue(outbox, rules_of(self.settings), self.settings.hold_for_ms)
        ids = queue.ids(rows)
        return [
            StoredView(
                row.number,
                ids[row.number],
                row.state.value,
                rfc3339(row.created_at),
                row.attempts,
                row.reason,
                queue.differences(row, self.known.state),
            )
            for row in rows
        ]

    def _rule(self) -> str | None:
        match = self.asked.match
        if self.asked.run.project.provider != JENKINS:
            return "none used: the build reported itself"
        if match is None:
            return None
        return described(self.settings.rules, match)

    def _verdict(self, derived: list[DerivedView]) -> str:
        if rows := self.known.state.deployments:
            states = ", ".join(sorted({row.state.value for row in rows}))
            return " ".join((f"It is in the outbox: {states}.", *self._suppressed(derived)))
        if self.known.set_aside is not None:
            return f"No event: an unexpected error. The build was set aside at {rfc3339(self.known.set_aside.at)}."
        project = self.asked.run.project
        if roots := self.settings.roots_elsewhere(project.scope, project.name):
            return f"No event: the job is not in a folder of [[jenkins]] roots: {', '.join(roots)}."
        if taken := self._taken_ids():
            return f"No event: {id_is_taken(taken[0])}."
        return self._why_none(derived)

    def _taken_ids(self) -> list[str]:
        known = self.known
        if known.outbox is None:
            return []
        return taken_ids(known.state.facts, known.state.deployments, rules_of(self.settings), known.outbox)

    def _suppressed(self, derived: list[DerivedView]) -> Iterator[str]:
        """A sentence for each event that a rule or a report would give, but that does not exist."""
        taken = self._taken_ids()
        yield from (f"No event {name}: {id_is_taken(name)}." for name in taken)
        facts_ = self._facts()
        if any(fact.kind is Kind.REPORT for fact in facts_):
            unreported = [fact for fact in facts_ if fact.kind is not Kind.REPORT]
            made = {view.deployment_id for view in derived}
            by_rule = [view.deployment_id for _, view in of_run(unreported, [], rules_of(self.settings))]
            if left := [name for name in by_rule if name not in made]:
                yield f"The build reported itself, so the rule adds no event {', '.join(left)}."

    def _why_none(self, derived: list[DerivedView]) -> str:
        raw = self.asked.raw
        if self.asked.match is None:
            return "No event: no [[deployment]] rule matches the job."
        if raw is None:
            why = f"Jenkins cannot be asked: {self.asked.problem}" if self.asked.problem else "it cannot be read"
            return f"The outbox has no event of this build, and {why}."
        if raw.phase is not Phase.FINAL:
            return "No event yet: the build is not final."
        if not derived:
            return f"No event: {why_nothing(self._facts(), rules_of(self.settings), self.asked.run.project)}."
        if self.known.outbox is None:
            return "No event yet: the agent has not polled."
        return _why_not_read(raw, self.known.outbox, self.asked.run.project)


def _why_not_read(raw: RawBuild, outbox: Outbox, job: Project) -> str:
    """Why a finished build that matches a rule is not in the outbox."""
    error = outbox.job_errors(job.scope).get(job.name)
    if error is not None:
        again = rfc3339(error.next_try_at)
        return f"No event yet: the job cannot be read; the next attempt is at {again}: {error.error}"
    state, cursor = outbox.controller(job.scope), outbox.job(job.scope, job.name)
    if state is None or state.report_from is None or cursor is None:
        return "No event yet: the agent has not read this job."
    if raw.ended_at < state.report_from:
        return (
            f"No event: the build ended before {rfc3339(state.report_from)}, when the agent started to report. "
            "To report it, run: hivel-agent backfill"
        )
    if raw.number >= cursor.next_build_number:
        return "No event yet: the next poll will read it."
    if any(build.number == raw.number for build in outbox.open_builds(job.scope).get(job.name, [])):
        return "No event yet: the build was not final at the last poll and will be read again."
    return (
        "No event: the poller skipped the build. No rule matched its job at that time, or it was not in Jenkins when "
        "the poller read the job. To report it, run: hivel-agent backfill"
    )
