"""All values that the sources gave for a field of an event, which one is used, and why the others are not.

The derivation itself records the source of the used value (``Part.origins``). This module lists the alternatives.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from agent.config.rules import match_of_reporting
from agent.deployments import content as contents
from agent.deployments import pulls, reported
from agent.deployments.checkouts import REVISION_PARAMETER, Wanted
from agent.deployments.checkouts import of_build as applications_of
from agent.deployments.content import Basis
from agent.deployments.derive import said_in, worth
from agent.deployments.reported import SAID
from agent.deployments.repository import whose_words
from agent.deployments.urls import is_same, repository_of_page
from agent.inspect.queue import build_of_fact
from agent.model.deployment import Scope, event_of
from agent.model.event import InvalidEventError
from agent.model.fact import Kind, Report
from agent.model.git import branch_name, remotes_of
from agent.model.status import Provider, normalise
from agent.model.times import rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from agent.deployments.derive import Derived, Part, Rules
    from agent.model.build import Build, Checkout, Related
    from agent.model.event import DeploymentEvent
    from agent.model.fact import Fact

_PLACES = ("repo_url", "branch", "commit_hash")
_TIMES = {"start_time": "started_at", "end_time": "ended_at"}


class Verdict(enum.StrEnum):
    """Whether a value is used, is the same as the used one, or is left out."""

    COUNTS = "counts"
    AGREES = "agrees"
    LEFT_OUT = "left out"


class WordView(msgspec.Struct, frozen=True):
    """A value (``says``) and its source (``who``). ``why``: the reason if it is left out."""

    who: str
    says: str
    verdict: Verdict
    why: str = ""


@dataclass(frozen=True)
class Told:
    """The facts of a part: its reports, oldest first, and its build as read from Jenkins, if it was read."""

    part: Part
    reports: Sequence[Fact]
    build: Build | None
    rules: Rules


def told(part: Part, facts: Iterable[Fact], derived: Derived, rules: Rules) -> Told:
    """The facts of a part. ``facts``: those of its run; ``derived``: what was derived from them."""
    mine = sorted(
        (fact for fact in facts if derived.builds.get(fact.word) == part.build), key=lambda fact: fact.received_at
    )
    reports = [fact for fact in mine if isinstance(fact.body, Report) and is_about(fact.body, part)]
    final = min((fact for fact in mine if fact.kind is Kind.FINAL), key=worth, default=None)
    return Told(part, reports, None if final is None else build_of_fact(final), rules)


def is_about(report: Report, part: Part) -> bool:
    """Whether a report of the part's build is about this part."""
    environments = {"", *(name.environment for name in part.names)}
    stages = {name.stage for name in part.names} if part.scope is Scope.STAGE else {""}
    starts = {name.start for name in part.names} if part.scope is Scope.STAGE else {0}
    started_as_it = starts == {0} or report.started_at is None or report.started_at in starts
    return (report.stage or "") in stages and (report.environment or "") in environments and started_as_it


def words_of(told: Told) -> dict[str, list[WordView]]:
    """The values by field of the event, for fields with at least one value that is not the used one."""
    event = _event(told.part)
    found: dict[str, list[WordView]] = {}
    for field in (*_PLACES, "environment", "status", *_TIMES, "pr_numbers", "image"):
        words = _Field(told, field, event).words()
        if any(word.verdict is not Verdict.COUNTS for word in words):
            found[field] = words
    return found


def _event(part: Part) -> DeploymentEvent | None:
    try:
        return event_of("", part.content)
    except InvalidEventError:
        return None


# ---- one field


@dataclass(frozen=True)
class _Word:
    """``label``: the name of the source in the derivation. ``means``: the value as the event would contain it."""

    who: str
    says: str
    means: str
    label: str
    why: str = ""


class _Field:
    """The values for one field."""

    def __init__(self, told: Told, field: str, event: DeploymentEvent | None) -> None:
        self._told = told
        self._field = field
        value = getattr(told.part.content if event is None else event, field, None)
        self._value = _text(value)
        self._origin = told.part.origins.get(field, "")
        match told.build:
            case None:
                self._match = match_of_reporting(told.rules.rules, told.part.run.project.name)
            case build:
                self._match = match_of_reporting(told.rules.rules, build.job)

    def words(self) -> list[WordView]:
        """The values from Jenkins, then from the rule, then from reports."""
        return [self._view(word) for word in (*self._of_jenkins(), *self._of_rule(), *self._of_reports())]

    def _view(self, word: _Word) -> WordView:
        if self._counts(word):
            return WordView(word.who, word.says, Verdict.COUNTS)
        if self._agrees(word):
            return WordView(word.who, word.says, Verdict.AGREES)
        return WordView(word.who, word.says, Verdict.LEFT_OUT, word.why or self._why())

    def _counts(self, word: _Word) -> bool:
        if word.label == SAID:
            return self._is_reported and self._agrees(word)
        first = self._first.removeprefix("tag of ")
        return word.label in (first, first.partition(" (")[0])

    @property
    def _first(self) -> str:
        """The source of the used value, as the derivation names it. The reasons follow it in the origin."""
        return self._origin.partition("; ")[0]

    @property
    def _is_reported(self) -> bool:
        if self._field == "status" and self._told.build is None:
            return True
        return self._origin.startswith(SAID) and not self._origin.startswith(f"{SAID} says ")

    def _agrees(self, word: _Word) -> bool:
        if self._field == "repo_url" and self._value:
            return is_same(word.means, self._value)
        return word.means == self._value

    def _why(self) -> str:
        """Why a value is left out."""
        if self._told.part.scope is Scope.STAGE and self._field in ("status", *_TIMES):
            return "this is the value of the whole build"
        if self._is_reported and self._field in _PLACES and self._first != SAID:
            return "the build itself did not check out an application"
        if self._is_reported:
            return "the build's own report takes precedence"
        if self._template is not None:
            return f"the rule's {self._field} takes precedence"
        reasons = [each for each in self._origin.split("; ")[1:] if not each.startswith((SAID, "checked out "))]
        return ": ".join([f"{self._first} is used", *(each.replace("this one", "that one") for each in reasons[:1])])

    @property
    def _template(self) -> object:
        return getattr(self._match.rule, self._field, None)

    # ---- sources

    def _of_jenkins(self) -> Iterator[_Word]:
        build = self._told.build
        if build is None:
            return
        match self._field:
            case "repo_url" | "branch" | "commit_hash":
                yield from self._of_checkouts(build, ())
                yield from self._of_job(build)
            case "status" | "start_time" | "end_time" if self._told.part.scope is Scope.RULE:
                return  # explain lists the stages separately
            case "status":
                status = self._of_build_alone().get("status", "")
                yield _Word("Jenkins", f"result {build.result}", status, f"result {build.result} -> {status}")
            case "start_time" | "end_time":
                at = build.started_at if self._field == "start_time" else build.ended_at
                label = "the build's timestamp" + (" and duration" if self._field == "end_time" else "")
                yield _Word("Jenkins", _moment(at), _moment(at), label)
            case "pr_numbers":
                found = pulls.of_build(build)
                if found.numbers:
                    yield _Word(f"Jenkins, {found.origin}", _text(found.numbers), _text(found.numbers), found.origin)
            case _:
                return

    def _of_checkouts(self, build: Build, way: tuple[Related, ...]) -> Iterator[_Word]:
        wanted = self._wanted
        libraries = applications_of(build, wanted).libraries
        whose = whose_words(way)
        for number, checkout in enumerate(build.checkouts, 1):
            label = f"checkout {number} of {len(build.checkouts)}{whose}"
            says, means = self._in_checkout(checkout)
            if says:
                why = _why_library(build, checkout, wanted) if checkout in libraries else ""
                yield _Word(label, says, means, label, why)
        for related in build.related:
            yield from self._of_checkouts(related.build, (*way, related))

    @property
    def _wanted(self) -> Wanted:
        return Wanted(self._told.rules.options.libraries, self._match.rule.repository)

    def _in_checkout(self, checkout: Checkout) -> tuple[str, str]:
        match self._field:
            case "repo_url":
                same = [url for url in checkout.remote_urls if is_same(url, self._value)]
                return ", ".join(checkout.remote_urls), next(iter((*same, *checkout.remote_urls)), "")
            case "branch":
                remotes = remotes_of(checkout.branches, len(checkout.remote_urls))
                plain_names = [branch_name(name, remotes, commit=checkout.commit) or "" for name in checkout.branches]
                means = self._value if self._value in plain_names else next(iter(plain_names), "")
                return ", ".join(filter(None, checkout.branches)), means
            case _:
                return checkout.commit or "", checkout.commit or ""

    def _of_job(self, build: Build) -> Iterator[_Word]:
        revision = build.revision
        if self._field == "commit_hash" and revision and revision.commit:
            label = "the commit that the branch job was started for"
            yield _Word("the commit that the branch job was started for", revision.commit, revision.commit, label)
        if self._field == "repo_url" and build.pull_request_url:
            page = repository_of_page(build.pull_request_url) or ""
            label = f"the branch job's page {build.pull_request_url}"
            yield _Word("the page of the branch job", build.pull_request_url, page, label)
        if self._field == "branch":
            why = "the branch of the checkout takes precedence" if "checkout" in self._origin else ""
            if build.branch_job:
                name = (revision and revision.name) or build.job.rpartition("/")[2]
                yield _Word(
                    "the name of the branch job", name, branch_name(name, (), commit="") or name, "job name", why
                )
            yield from self._of_parameters(build, why)

    def _of_parameters(self, build: Build, why: str) -> Iterator[_Word]:
        """Parameters that may name the deployed revision. They select one of several checkouts."""
        for name, value in build.parameters.items():
            if value.strip() and REVISION_PARAMETER.search(name):
                means = branch_name(value, commit=self._told.part.content.commit_hash) or value
                yield _Word(f"parameter {name}", value, means, f"parameter {name}", why)

    def _of_rule(self) -> Iterator[_Word]:
        """The value of the rule, if a report takes precedence over it."""
        if self._field not in ("repo_url", "branch", "environment", "image") or self._told.build is None:
            return
        if self._template is None or not self._is_reported or self._told.part.scope is Scope.RULE:
            return
        value = self._of_build_alone().get(self._field, "")
        if value:
            yield _Word("the rule", value, value, "the rule")

    def _of_build_alone(self) -> dict[str, str]:
        """The values that the build would have without a report."""
        if self._told.build is None:
            return {}
        content, _ = contents.of_whole(Basis(self._told.build, self._match, self._told.rules.options))
        names = ("repo_url", "branch", "environment", "image", "status")
        return {name: _text(getattr(content, name)) for name in names}

    def _of_reports(self) -> Iterator[_Word]:
        chosen = said_in(self._told.reports)
        for fact in self._told.reports:
            report = fact.body
            if not isinstance(report, Report):
                continue
            value = getattr(report, _TIMES.get(self._field, self._field), None)
            if not value:
                continue
            says = _moment(value) if self._field in _TIMES else _text(value)
            found = self._field in _PLACES and self._field not in report.given
            who = f"{fact.source} at {rfc3339(fact.received_at)}" + (", from the build's environment" if found else "")
            yield _Word(who, says, self._meaning(report, says), SAID, self._why_not(report, chosen))

    def _meaning(self, report: Report, says: str) -> str:
        options = self._told.rules.options
        match self._field:
            case "environment":
                return contents.written_environment(says, options)
            case "branch":
                return branch_name(says, commit=report.commit_hash or "") or says
            case "status":
                result = contents.result_of(report)
                return _text(options.status_map.get(result or "") or normalise(Provider.JENKINS, result))
            case _:
                return says

    def _why_not(self, report: Report, chosen: Report) -> str:
        """Why the value of a report is left out."""
        name = _TIMES.get(self._field, self._field)
        if self._is_reported:
            wrote = name in chosen.given and name not in report.given
            return "a given value takes precedence over a detected one" if wrote else "a later report has another value"
        if name in _PLACES and self._told.build is not None:
            basis = Basis(self._told.build, self._match, self._told.rules.options, report)
            left_out, why = reported.not_counted(report, basis.sources()[0], basis.wanted())
            return why if name in left_out else ""
        if self._field in (*_TIMES, "status"):
            return "the result and the times are those of Jenkins"
        return ""


def _why_library(build: Build, checkout: Checkout, wanted: Wanted) -> str:
    """Why a checkout counts as one of a library."""
    if any(map(wanted.is_library, checkout.remote_urls)):
        return "it is listed in [repositories] libraries"
    if build.libraries:
        return f"a shared library that the pipeline loaded ({', '.join(build.libraries)})"
    return "its name looks like the name of a library"


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


def _moment(ms: int) -> str:
    try:
        return rfc3339(ms)
    except OverflowError:
        return str(ms)
