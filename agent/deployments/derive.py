"""Derives the parts of a run that are deployments from its facts. No I/O, no clock, facts in any order."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msgspec.structs import replace

from agent.config.rules import Options, first_match, match_of_reporting
from agent.deployments import content as contents
from agent.deployments.attribution import BuildRef, KeptBuild, attribute, words_of
from agent.deployments.content import Basis
from agent.deployments.reported import is_given
from agent.model.build import Build
from agent.model.deployment import Content, Name, Scope
from agent.model.fact import Fact, Kind, Report
from agent.model.keys import GIVEN_IDS, Project, Run
from agent.model.status import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from agent.config.rules import Match, Rule
    from agent.deployments.attribution import BuildFacts

_ONE_RUN = BuildRef(0, known=False)
_SAID = tuple(name for name in Report.__struct_fields__ if name != "given")


def _everybody(_principal: str, _project: Project) -> bool:
    return True


@dataclass(frozen=True)
class Rules:
    """Which parts of a run are deployments.

    ``controllers``: the polled ones, for whose final facts it is worth waiting. ``may_report``: whether a team
    (``Fact.principal``) may report for a project, under all of its names. Other reports are kept without effect.
    """

    rules: tuple[Rule, ...]
    options: Options = field(default_factory=Options)
    controllers: frozenset[str] = frozenset()
    may_report: Callable[[str, Project], bool] = _everybody

    def polls(self, project: Project) -> bool:
        """Whether the poller will provide a final fact."""
        return project.reuses_numbers and project.scope in self.controllers


@dataclass(frozen=True)
class Part:
    """One deployment of a run, derived from its facts. Times are UTC milliseconds.

    ``names``: identify stored deployments of this part. ``suffixes``: candidates for the rest of the id after the run's
    id. ``final``: no better facts will come. ``since``: the time of its first fact, ``anchor``. ``reported``: it was
    reported; otherwise a rule derived it from a finished build. ``without_body``: the build's facts were deleted, and
    only later reports are known.
    """

    run: Run
    build: BuildRef
    build_started_at: int
    build_ended_at: int
    names: tuple[Name, ...]
    content: Content
    origins: dict[str, str]
    suffixes: tuple[tuple[str, ...], ...]
    final: bool
    since: int
    anchor: int
    reported: bool = True
    without_body: bool = False

    @property
    def scope(self) -> Scope:
        """The part of the run."""
        return self.names[0].scope

    @property
    def named(self) -> bool:
        """Whether the run itself reported the environment."""
        return bool(self.names[0].environment)


@dataclass(frozen=True)
class Derived:
    """The parts of a run, and the build of each fact's ``word``, by which stored deployments find their build."""

    parts: list[Part]
    builds: dict[int, BuildRef]


def derive(facts: Iterable[Fact], rules: Rules, kept: Collection[KeptBuild] = ()) -> Derived:
    """The parts of all builds with one run number. ``kept``: builds of which only deployments are left."""
    facts = list(facts)
    names = {fact.run.project for fact in facts} | {build.project for build in kept}
    distinct = {fact.word: fact for fact in facts if _counts(fact, names, rules)}
    if not distinct:
        return Derived([], {})
    project = next(iter(distinct.values())).run.project
    if not project.reuses_numbers:
        return _other_system(sorted(distinct.values(), key=_order), rules)
    builds = attribute(distinct.values(), kept)
    parts = [part for build in builds for part in _Parts(build, rules).all()]
    return Derived(parts, {word: build.ref for build in builds for word in words_of(build)})


def _counts(fact: Fact, names: Iterable[Project], rules: Rules) -> bool:
    return fact.kind is not Kind.REPORT or all(rules.may_report(fact.principal, each) for each in names)


def _order(fact: Fact) -> tuple[int, int]:
    return fact.received_at, fact.word


def said_in(facts: Iterable[Fact]) -> Report:
    """Merge ordered reports: for each field the last value that a person wrote, else the last value."""
    told: dict[str, object] = {}
    given: set[str] = set()
    for fact in facts:
        if not isinstance(fact.body, Report):
            continue
        for name in _SAID:
            value = getattr(fact.body, name)
            if value and (name in fact.body.given or name not in given):
                told[name] = value
                given |= {name} & set(fact.body.given)
    return Report(**{"provider": "", "given": tuple(sorted(given))} | told)  # type: ignore[arg-type]


def _times(facts: Sequence[Fact], said: Report) -> tuple[int, int]:
    """Start and end of what was reported; times that no report has are times of receipt."""
    ended_at = facts[-1].received_at if said.ended_at is None else said.ended_at
    return ended_at if said.started_at is None else said.started_at, ended_at


# ---- Jenkins builds


class _Parts:
    """The parts of one build."""

    def __init__(self, facts: BuildFacts, rules: Rules) -> None:
        self._facts = facts
        self._rules = rules
        self._final = min(facts.finals, key=worth, default=None)
        self._whole = [fact for fact in facts.reports if not _stage_of(fact)]
        self._staged = [fact for fact in facts.reports if _stage_of(fact)]

    def all(self) -> list[Part]:
        """Parts for the whole build, then for stages; the rule's parts if nothing was reported."""
        if self._final is None and not self._facts.reports:
            return []
        parts = self._reported_whole() + self._reported_stages()
        if not self._facts.reports:
            parts = self._by_rule([], contents.NOTHING_SAID)
        return parts

    def _run(self) -> Run:
        facts = self._facts
        spoken = self._final or (facts.reports[0] if facts.reports else None)
        if spoken is None:  # pragma: no cover - there is one of them, or no part
            raise ValueError("a build without facts")
        return spoken.run

    def _build(self, said: Report, of: Sequence[Fact]) -> Build:
        """The build as far as it is known."""
        run = self._run()
        if self._final is not None and isinstance(self._final.body, Build):
            key = {"controller": run.project.scope, "job": run.project.name, "number": int(run.number)}
            return replace(self._final.body, **key)
        started_at, ended_at = _times(of, said)
        return Build(
            controller=run.project.scope,
            job=run.project.name,
            number=int(run.number),
            url=said.url or "",
            result=contents.result_of(said),
            started_at=started_at,
            ended_at=ended_at,
        )

    def _basis(self, said: Report, of: Sequence[Fact]) -> Basis:
        build = self._build(said, of)
        return Basis(build, match_of_reporting(self._rules.rules, build.job), self._rules.options, said)

    def _rule(self) -> Match | None:
        return first_match(self._rules.rules, self._run().project.name)

    def _by_rule(self, reports: list[Fact], said: Report) -> list[Part]:
        """The parts that the rule derives from a final build."""
        match = self._rule()
        if self._final is None or match is None:
            return []
        found = contents.of_rule(Basis(self._build(said, reports), match, self._rules.options, said))
        words = reports or [self._final]
        return [
            self._part(words, (each.name,), each.content, each.origins, suffixes=each.suffixes, final=True)
            for each in found
        ]

    def _reported_whole(self) -> list[Part]:
        if not self._whole:
            return []
        named = self._environments(self._whole)
        if not named:
            said = said_in(self._whole)
            by_rule = self._by_rule(self._whole, said)
            if any(part.scope is Scope.RULE for part in by_rule):
                return by_rule
            named = {"": {""}}
        return [self._reported_whole_in(said_as) for said_as in named.values()]

    def _reported_whole_in(self, environments: set[str]) -> Part:
        mine = [fact for fact in self._whole if _environment_of(fact) in {"", *environments}]
        said = said_in(mine)
        names = tuple(Name(Scope.WHOLE, environment=each) for each in sorted(environments))
        content, origins = contents.of_whole(self._basis(said, mine))
        behind = content.environment or "build"
        suffixes = ((), (behind,), (behind, "build"))
        return self._part(mine, names, content, origins, suffixes=suffixes, final=self._is_final())

    def _environments(self, facts: Iterable[Fact]) -> dict[str, set[str]]:
        """Reported environment names, by the name that is sent."""
        found: dict[str, set[str]] = {}
        for environment in sorted({_environment_of(fact) for fact in facts} - {""}):
            written = contents.written_environment(environment, self._rules.options)
            found.setdefault(written, set()).add(environment)
        return found

    def _reported_stages(self) -> list[Part]:
        """Each reported stage in each environment. A report without one gets the environment from the rule."""
        groups: dict[tuple[str, str], list[Fact]] = {}
        for fact in self._staged:
            groups.setdefault((_stage_of(fact), self._environment_of_stage(fact)), []).append(fact)
        return [
            self._reported_stage(stage, each) for (stage, _), mine in sorted(groups.items()) for each in _by_start(mine)
        ]

    def _environment_of_stage(self, fact: Fact) -> str:
        if said := _environment_of(fact):
            return contents.written_environment(said, self._rules.options)
        report = said_in([fact])
        content, _ = contents.of_stage(self._basis(report, [fact]), _times([fact], report))
        return content.environment or ""

    def _reported_stage(self, stage: str, mine: list[Fact]) -> Part:
        said = said_in(mine)
        start = next((fact.started_at for fact in mine if fact.started_at is not None), 0)
        names = tuple(Name(Scope.STAGE, stage, each, start=start) for each in sorted(map(_environment_of, mine)))
        content, origins = contents.of_stage(self._basis(said, mine), _times(mine, said))
        behind = content.environment or stage
        suffixes = ((behind,), (behind, stage))
        final = self._is_final() or (is_given(said) and content.problem is None)
        return self._part(mine, tuple(dict.fromkeys(names)), content, origins, suffixes=suffixes, final=final)

    def _is_final(self) -> bool:
        """Whether the poller's final fact exists or will never come."""
        return self._final is not None or self._facts.is_kept or not self._rules.polls(self._run().project)

    def _part(
        self,
        words: Sequence[Fact],
        names: tuple[Name, ...],
        content: Content,
        origins: dict[str, str],
        *,
        suffixes: tuple[tuple[str, ...], ...],
        final: bool,
    ) -> Part:
        facts, first = self._facts, words[0]
        started_at, ended_at = facts.ref.started_at, facts.ended_at
        if not facts.ref.known:
            started_at = min((f.started_at for f in facts.reports if f.started_at is not None), default=started_at)
        return Part(
            run=self._run(),
            build=facts.ref,
            build_started_at=started_at,
            build_ended_at=max(started_at, facts.last_seen_at, facts.gone_at or 0) if ended_at is None else ended_at,
            names=names,
            content=content,
            origins=origins,
            suffixes=suffixes,
            final=final,
            since=first.received_at,
            anchor=first.word,
            reported=first.kind is Kind.REPORT,
            without_body=facts.is_kept and self._final is None,
        )


def worth(final: Fact) -> tuple[int, int, int, int]:
    """Ranking of final facts: the latest end first, because another replica may show that the build went on.

    Then fewest gaps, then the earliest, because stages may be deleted later.
    """
    build = final.body
    gaps = ended_at = 0
    if isinstance(build, Build):
        source, libraries = build.checkouts or build.inherited or build.related, build.libraries is not None
        gaps = sum(not known for known in (source, libraries, build.stages, build.url, build.result))
        ended_at = build.ended_at
    return -ended_at, gaps, final.received_at, final.word


def _stage_of(fact: Fact) -> str:
    return (isinstance(fact.body, Report) and fact.body.stage) or ""


def _environment_of(fact: Fact) -> str:
    return (isinstance(fact.body, Report) and fact.body.environment) or ""


def _by_start(facts: list[Fact]) -> list[list[Fact]]:
    """Reports of one stage grouped by start: two starts are two deployments. Without a start: as the previous one."""
    dated: dict[int, list[Fact]] = {}
    for fact in facts:
        if fact.started_at is not None:
            dated.setdefault(fact.started_at, []).append(fact)
    if not dated:
        return [facts]
    for fact in facts:
        if fact.started_at is None:
            before = [of for of in dated.values() if _order(of[0]) < _order(fact) and of[0].started_at is not None]
            (before[-1] if before else next(iter(dated.values()))).append(fact)
    return [sorted(of, key=_order) for of in dated.values()]


# ---- runs of other systems


def _other_system(facts: list[Fact], rules: Rules) -> Derived:
    """One deployment for each reported environment and stage, or for each given id."""
    groups: dict[tuple[str, str], list[Fact]] = {}
    for fact in facts:
        given = fact.run.project == GIVEN_IDS
        environment = contents.written_environment(_environment_of(fact), rules.options)
        groups.setdefault(("", "") if given else (environment, _stage_of(fact)), []).append(fact)
    parts = [_reported_run(of, rules) for of in groups.values()]
    return Derived(parts, {fact.word: _ONE_RUN for fact in facts})


def _reported_run(facts: list[Fact], rules: Rules) -> Part:
    first, said = facts[0], said_in(facts)
    times = _times(facts, said)
    if first.kind is Kind.UNREADABLE:
        content = Content(status=Status.UNKNOWN, started_at=times[0], ended_at=times[1], problem=str(first.body))
        origins = dict[str, str]()
    else:
        content, origins = contents.of_report(said, rules.options, times)
    given = first.run.project == GIVEN_IDS
    scope = Scope.STAGE if said.stage and not given else Scope.WHOLE
    environments = [""] if given else sorted({_environment_of(fact) for fact in facts})
    names = tuple(Name(scope, said.stage or "" if scope is Scope.STAGE else "", each) for each in environments)
    behind = tuple(part for part in (said.environment, said.stage) if part)
    return Part(
        run=first.run,
        build=_ONE_RUN,
        build_started_at=times[0],
        build_ended_at=times[1],
        names=names,
        content=content,
        origins=origins,
        suffixes=((),) if given else (behind,),
        final=True,
        since=first.received_at,
        anchor=first.word,
    )
