"""Parses a report: which run it is about, and its content. The same for emit, intake and spool.

The input has passed :func:`agent.model.report.checked`: texts have a maximum length, and URLs can be parsed.
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

    from agent.config.settings import JenkinsSettings
    from agent.model.status import Provider

_TEXTS = (
    "stage", "environment", "repo_url", "branch", "commit_hash", "image", "logs_url", "pr_number", "build_number",
)  # fmt: skip


@dataclass(frozen=True)
class Parsed:
    """A parsed report. ``controller``: the one that polls its build, if any."""

    run: Run
    said: Report
    controller: str | None = None


def parse(report: Mapping[str, object], controllers: tuple[JenkinsSettings, ...]) -> Parsed:
    """Parse a report that has passed :func:`agent.model.report.checked`. ``controllers``: those that are polled.

    Raises :class:`agent.model.report.ReportError` if it identifies no run or has an invalid value, and
    :class:`agent.model.report.UnknownWordError` if its provider does not have this status.
    """
    fields = Fields(report)
    provider = fields.provider()
    said = _said(fields, provider, report)
    given = fields.text("deployment_id")
    if fields.is_of_jenkins_build(provider):
        parsed = _build(fields, said, controllers)
        if not given or limited_id(given) in map(limited_id, _own_ids(parsed)):
            return parsed
    if given:
        return Parsed(run_of_id(given), said)
    return Parsed(Run(Project(provider, "", ""), fields.run()), said)


def _build(fields: Fields, said: Report, controllers: tuple[JenkinsSettings, ...]) -> Parsed:
    """A report about a Jenkins build. Its scope is the controller that polls it, else the one that the report names."""
    job, number = fields.job_and_number()
    url, named = fields.text("build_url"), fields.text("controller")
    if named:
        polled = next((controller for controller in controllers if controller.name == named), None)
    else:
        polled = controller_of(controllers, url)
    scope = polled.name if polled else named or urlsplit(url).netloc or "jenkins"
    return Parsed(jenkins_run(scope, job, number), said, polled.name if polled else None)


def _own_ids(parsed: Parsed) -> Iterator[str]:
    """The ids that the agent could assign to this report without ``deployment_id``. Sending one changes nothing."""
    base, said = run_id(parsed.run), parsed.said
    parts = [part for part in (said.environment, said.stage) if part]
    yield base
    yield from (part_deployment_id(base, part) for part in parts)
    yield part_deployment_id(base, *parts)


def _said(fields: Fields, provider: Provider, report: Mapping[str, object]) -> Report:
    """The content of the report, without the fields that identify the run."""
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
