"""Facts as random builds make them, and a store in memory: what the property tests of derive and plan play with."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

import hypothesis.strategies as st
from msgspec.structs import replace

from agent.config.rules import Pattern, Rule, Template
from agent.deployments.derive import Derived, Rules, derive
from agent.deployments.plan import Moment, kept_builds, plan
from agent.model import fact as facts
from agent.model.build import Build, Checkout, Stage
from agent.model.deployment import Deployment, State
from agent.model.fact import Fact, Kind, Report
from agent.model.keys import Project, Run

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from agent.model.deployment import Content

MINUTE = 60_000
HOUR = 60 * MINUTE
NOON = 1_790_000_000_000
HOLD_FOR = HOUR
REPO = "https://git.example.test/acme/shop"
NOBODY = "a team that may not"

PROJECT = Project("jenkins", "main", "deploy/shop")
FORMER = Project("jenkins", "main", "old/shop")
RUN = Run(PROJECT, "12")


def rules(
    environment: str | None = "production",
    *,
    stages: bool = False,
    pattern: str = "re:Deploy (?P<environment>.+)",
    controllers: tuple[str, ...] = ("main",),
) -> Rules:
    """One rule for every job; None: no rule matches. ``stages``: it wants the stages called "Deploy …"."""
    job = Pattern.parse("**" if environment is not None else "never")
    stage = Pattern.parse(pattern) if stages else None
    groups = ("stage", "environment") if stages else ()
    template = Template.parse("{environment}|production" if stages else environment or "production", groups)
    rule = Rule(job, template, stage=stage)
    return Rules((rule,), controllers=frozenset(controllers), may_report=lambda who, _: who != NOBODY)


RULES = [rules(), rules(None), rules(stages=True), rules("eu")]


def build(
    start: int, end: int, result: str = "FAILURE", *, stages: Sequence[str] = ("Deploy eu", "Deploy us")
) -> Build:
    """A finished build with two stages that deploy."""
    checkout = Checkout((REPO,), ("refs/remotes/origin/main",), "a" * 40)
    ran = tuple(Stage(name, "SUCCESS", start, end) for name in stages)
    return Build(
        url="https://jenkins.example.test/job/deploy/job/shop/12/", result=result, started_at=start, ended_at=end,
        checkouts=(checkout,), stages=ran,
    )  # fmt: skip


def said(tag: str, **fields: object) -> Report:
    """A report; ``tag`` names the build that it is of, as the image."""
    told = {"provider": "jenkins", "status": "SUCCESS", "repo_url": REPO, "branch": "main", "image": tag} | fields
    return Report(**told)  # type: ignore[arg-type]


# Of a report: somebody wrote down repository and branch, so that a stage is final at once.
GIVEN = ("repo_url", "branch")


@dataclass
class World:
    """What the outbox would hold of one run number, and what Hivel got."""

    rules: Rules
    now: int = NOON
    facts: list[Fact] = field(default_factory=list)
    rows: list[Deployment] = field(default_factory=list)
    hivel: dict[str, Content] = field(default_factory=dict)
    forgotten: dict[str, int] = field(default_factory=dict)
    numbers: count[int] = field(default_factory=lambda: count(1))

    def derived(self) -> Derived:
        return derive(self.facts, self.rules, kept_builds(self.rows))

    def accept(self, *new: Fact) -> None:
        """Facts come in: stored, derived, planned."""
        self.facts += facts.fresh(self.facts, new)
        self.plan()

    def plan(self) -> None:
        derived, moment = self.derived(), Moment(self.now, HOLD_FOR)
        before = {row.number: row for row in self.rows}
        planned = [
            row if row.number else replace(row, number=next(self.numbers))
            for row in plan(derived, self.rows, moment, self.forgotten)
        ]
        for row in planned:  # what was frozen stays what it is
            was = before.pop(row.number, None)
            assert was is None or not was.frozen or was.deployment_id == row.deployment_id
        assert not any(row.frozen for row in before.values()), "a frozen deployment was removed"
        again = plan(self.derived_with(planned), planned, moment, self.forgotten)
        assert again == planned, "planning twice is not planning once"
        self.rows = planned

    def derived_with(self, rows: list[Deployment]) -> Derived:
        return derive(self.facts, self.rules, kept_builds(rows))

    def deliver(self) -> None:
        for place, row in enumerate(self.rows):
            if row.state is State.PENDING:
                assert row.deployment_id is not None and row.deployment_id not in self.hivel, "an id was sent twice"
                self.hivel[row.deployment_id] = row.content
                self.rows[place] = replace(row, state=State.DELIVERED, sent_revision=row.revision)

    def prune(self) -> None:
        """The facts of a build go together, once it is final or gone and everything of it is settled."""
        by_build = self.derived().builds
        ended = {f.started_at for f in self.facts if f.kind in (Kind.FINAL, Kind.GONE)}
        for start in ended:
            mine = [row for row in self.rows if row.build_started_at == start and row.known]
            if mine and all(row.state is State.DELIVERED for row in self.rows):
                self.facts = [
                    f for f in self.facts
                    if f.started_at != start and (by_build.get(f.word) is None or by_build[f.word].started_at != start)
                ]  # fmt: skip


@dataclass(frozen=True)
class Lived:
    """A build that really was, and everything that was said about it, with the moment when it comes in."""

    tag: str
    start: int
    end: int
    reports: list[tuple[int, Fact]]
    polls: list[tuple[int, Fact]]

    @property
    def all(self) -> list[tuple[int, Fact]]:
        return self.reports + self.polls


@st.composite
def lived(draw: st.DrawFn, start: int, *, seen: bool = True, project: Project = PROJECT) -> Lived:
    """A build with reports of itself and of stages, some late, some with a wrong clock, and what polls say of it."""
    run, end = Run(project, "12"), start + draw(st.integers(MINUTE, HOUR))
    tag = f"build-{start - NOON}"
    reports = []
    for number in range(draw(st.integers(0, 4))):
        at = draw(st.integers(start, end))
        late = draw(st.sampled_from([0, 0, 0, 30_000, 500_000, 2 * HOUR]))
        body = said(
            tag,
            environment=draw(st.sampled_from([None, "eu", "us"])),
            stage=draw(st.sampled_from([None, None, "a", "b"])),
            started_at=draw(st.sampled_from([None, start, at, start - 25 * HOUR])),
            status=draw(st.sampled_from(["SUCCESS", "FAILURE"])),
            given=draw(st.sampled_from([(), GIVEN])),
        )
        who = draw(st.sampled_from(["", "", "", NOBODY]))
        reports.append((at + late, facts.report(run, body, source="emit", at=at + number, principal=who)))
    polls = []
    if seen:
        polls.append((start + 15_000, facts.seen(run, started_at=start, at=start + 15_000)))
    if draw(st.booleans()):
        at = end + draw(st.sampled_from([1_000, 20_000, 700_000, 2 * HOUR]))
        polls.append((at, facts.final(run, build(start, end), at=at)))
    elif seen:
        polls.append((end + 20_000, facts.gone(run, started_at=start, at=end + 20_000)))
    return Lived(tag, start, end, reports, polls)


def covered(row: Deployment, names: Iterable[object]) -> bool:
    return not set(row.names).isdisjoint(names)
