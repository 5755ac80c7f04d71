"""Finds the run that a webhook and the build itself report under two names.

GitHub's webhooks have the display name of a job, and ``emit`` has its key. Azure DevOps' events of a stage do not have
the job, which ``emit`` has. Two such runs are one only if exactly one is known of each side: several jobs of a run can
deploy to one environment.

A rule can make a deployment of a workflow whose jobs have deployments of their own. The jobs' count.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
from msgspec.structs import replace

from agent.model.fact import Kind, Report
from agent.outbox.values import Filter, Page
from agent.sources.reports.parse import Parsed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from agent.model.fact import Fact
    from agent.model.keys import Run
    from agent.outbox.interface import Outbox

log = structlog.get_logger("reports")

# The sources of reports by a platform. All others are the build itself.
WEBHOOK = "webhook:"
# Runs that are looked at. A run of a CI system with more deployments is not paired.
_MOST = 200
_GITHUB = re.compile(r"(github_actions:[^#]+#\d+)(?:/.+?)?(?:\.(\d+))?", re.S)
_AZURE = re.compile(r"(azure_devops:[^#]+#\d+)/(.+)", re.S)
_WORKFLOW = re.compile(r"github_actions:[^#]+#\d+(\.\d+)?")
_KEY = re.compile(r"github_actions:[^#]+#\d+/[A-Za-z_][A-Za-z0-9_-]*(\.\d+)?")
_ATTEMPT = re.compile(r"\.\d+(\.\d+)?$")


@dataclass(frozen=True)
class _Name:
    """The name of a run. ``whole``: the run of the CI system. ``attempt``: names of different attempts never pair."""

    text: str
    whole: str
    attempt: str

    def can_be(self, other: _Name) -> bool:
        """Whether both can be names of one run."""
        if (self.whole, self.attempt) != (other.whole, other.attempt):
            return False
        return self.whole.startswith("github_actions:") or (
            self.text.startswith(f"{other.text}/") or other.text.startswith(f"{self.text}/")
        )


def paired(parsed: Parsed, source: str, outbox: Outbox, behind: Sequence[Fact]) -> Parsed:
    """The report, as one of the run that is known under another name, if there is one.

    ``behind``: facts of the same transaction that are not stored yet.
    """
    name, environment = _name(parsed.run.number), parsed.said.environment
    if name is None or environment is None:
        return parsed
    known = {
        run: reports
        for run in _runs(name, outbox, behind)
        if (reports := [fact for fact in _reports(run, outbox, behind) if _environment(fact) == environment])
    }
    mine = source.startswith(WEBHOOK)
    for run, reports in known.items():
        if any(_named(fact) == parsed.run.number and fact.source.startswith(WEBHOOK) == mine for fact in reports):
            return _as(run, parsed)
    if parsed.run in known:
        return parsed
    if mine and (workflow := _workflow(parsed.run, known)) is not None:
        return _as(workflow, parsed)
    sides = {run: {fact.source.startswith(WEBHOOK) for fact in reports} for run, reports in known.items()}
    others = [
        run
        for run, side in sides.items()
        if side == {not mine} and _is_another_name(parsed.run.number if mine else run.number)
    ]
    if len(others) == 1 and not any(mine in side for side in sides.values()):
        return _as(others[0], parsed)
    if others:
        log.warning(
            "cannot tell whether two reports are about one deployment, both are kept",
            run=parsed.run.number, others=[run.number for run in others],
        )  # fmt: skip
    return parsed


def reported_by_jobs(parsed: Parsed, outbox: Outbox) -> bool:
    """Whether webhooks of jobs of this whole workflow run have reported a deployment to its environment."""
    name = _name(parsed.run.number) if _WORKFLOW.fullmatch(parsed.run.number) else None
    return name is not None and any(
        fact.source.startswith(WEBHOOK) and _environment(fact) == parsed.said.environment
        for run in _runs(name, outbox, ())
        if run != parsed.run
        for fact in _reports(run, outbox, ())
    )


def _workflow(job: Run, known: Mapping[Run, Sequence[Fact]]) -> Run | None:
    """The workflow run of this job that a webhook reported before the job, and that no other job was taken for."""
    if _WORKFLOW.fullmatch(job.number):
        return None
    return next(
        (
            run
            for run, reports in known.items()
            if _WORKFLOW.fullmatch(run.number)
            and all(fact.source.startswith(WEBHOOK) and _named(fact) is None for fact in reports)
        ),
        None,
    )


def _name(text: str) -> _Name | None:
    """None if this CI system has the same names in its webhooks and in its builds."""
    if (github := _GITHUB.fullmatch(text)) is not None:
        return _Name(text, github[1], github[2] or "1")
    if (azure := _AZURE.fullmatch(text)) is not None:
        # Events of stages do not have the attempt: only the first one pairs.
        attempt = _ATTEMPT.search(text)
        return _Name(text, azure[1], "1" if attempt is None else attempt[0])
    return None


def _is_another_name(webhook: str) -> bool:
    """Whether a webhook's name differs from that of the build itself.

    The display name of a job of GitHub is its key unless the workflow file has another one. A name that can be a key is
    taken for the key: other jobs of the run must not be paired with it.
    """
    return _KEY.fullmatch(webhook) is None


def _named(fact: Fact) -> str | None:
    return fact.body.named if isinstance(fact.body, Report) else None


def _as(run: Run, parsed: Parsed) -> Parsed:
    return Parsed(run, replace(parsed.said, named=parsed.run.number), parsed.controller)


def _runs(name: _Name, outbox: Outbox, behind: Iterable[Fact]) -> list[Run]:
    """The runs that can be this one, and itself."""
    found = outbox.search(Filter(text=name.whole), Page(limit=_MOST)).deployments
    runs = dict.fromkeys([*(each.run for each in found), *(fact.run for fact in behind)])
    others = ((run, _name(run.number)) for run in runs)
    return [run for run, other in others if other is not None and (other == name or name.can_be(other))]


def _reports(run: Run, outbox: Outbox, behind: Iterable[Fact]) -> list[Fact]:
    facts = [*outbox.facts(run), *(fact for fact in behind if fact.run == run)]
    return [fact for fact in facts if fact.kind is Kind.REPORT]


def _environment(fact: Fact) -> str | None:
    return fact.body.environment if isinstance(fact.body, Report) else None
