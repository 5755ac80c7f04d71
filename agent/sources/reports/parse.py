"""What a report says, and which run it is of: one parser for all doors.

It reads what :func:`agent.model.report.checked` let pass, and nothing else: texts are short, URLs can be taken apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from agent.config.settings import controller_of
from agent.model.fact import Report
from agent.model.ids import limited_id, part_deployment_id, run_id
from agent.model.keys import Project, Run, jenkins_run, run_of_id
from agent.model.report import GIVEN
from agent.sources.reports.fields import Fields

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from agent.config.settings import JenkinsSettings, Settings
    from agent.model.status import Provider

_TEXTS = (
    "stage", "environment", "repo_url", "branch", "commit_hash", "image", "logs_url", "pr_number", "build_number",
)  # fmt: skip


@dataclass(frozen=True)
class Parsed:
    """A report as it can be understood alone. ``controller``: the one that polls its build, if any does."""

    run: Run
    said: Report
    controller: str | None = None


def parse(report: Mapping[str, object], settings: Settings) -> Parsed:
    """Which run a report is of, and what it says. ``report`` was checked for its shape.

    Raises :class:`agent.model.report.ReportError` when it does not say what it is about, or says it in words that
    nobody understands; :class:`agent.model.report.UnknownWordError` when the status is one that its provider has not.
    """
    fields = Fields(report)
    provider = fields.provider()
    said = _said(fields, provider, report)
    given = fields.text("deployment_id")
    if fields.is_of_jenkins_build(provider):
        parsed = _build(fields, said, settings.controllers)
        if not given or limited_id(given) in map(limited_id, _own_ids(parsed)):
            return parsed
    if given:
        return Parsed(run_of_id(given), said)
    return Parsed(Run(Project(provider, "", ""), fields.run()), said)


def _build(fields: Fields, said: Report, controllers: tuple[JenkinsSettings, ...]) -> Parsed:
    """A build of Jenkins, under the name of the controller that polls it, or under the one that it says."""
    job, number = fields.job_and_number()
    url, named = fields.text("build_url"), fields.text("controller")
    if named:
        polled = next((controller for controller in controllers if controller.name == named), None)
    else:
        polled = controller_of(controllers, url)
    scope = polled.name if polled else named or urlsplit(url).netloc or "jenkins"
    return Parsed(jenkins_run(scope, job, number), said, polled.name if polled else None)


def _own_ids(parsed: Parsed) -> Iterator[str]:
    """The ids that may be made of this very report: who sends one of them asks for nothing else."""
    base, said = run_id(parsed.run), parsed.said
    parts = [part for part in (said.environment, said.stage) if part]
    yield base
    yield from (part_deployment_id(base, part) for part in parts)
    yield part_deployment_id(base, *parts)


def _said(fields: Fields, provider: Provider, report: Mapping[str, object]) -> Report:
    """All but what says which run it is of."""
    texts: dict[str, Any] = {name: fields.text(name) or None for name in _TEXTS}
    numbers, given = report.get("pr_numbers", []), report.get(GIVEN, [])
    return Report(
        provider=provider.value,
        status=fields.status(provider),
        pr_numbers=tuple(numbers) if isinstance(numbers, list) else (),
        url=fields.text("build_url") or None,
        started_at=fields.moment("start_time"),
        ended_at=fields.moment("end_time"),
        given=tuple(str(name) for name in given if name in report) if isinstance(given, list) else (),
        **texts,
    )
