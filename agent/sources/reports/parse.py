"""What a report says, and which run it is of: one parser for all doors.

It reads what :func:`agent.model.report.checked` let pass, and nothing else: texts are short, URLs can be taken apart.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from agent.config.settings import controller_of
from agent.model.fact import Report
from agent.model.ids import limited_id, part_deployment_id, run_id
from agent.model.keys import Project, Run, jenkins_run, run_of_id
from agent.model.names import build_of_url
from agent.model.report import GIVEN, MOST_DIGITS, ReportError, UnknownWordError
from agent.model.status import Provider, parse_word, provider_called
from agent.model.times import parse_http_date, parse_moment, rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from agent.config.settings import JenkinsSettings, Settings

_TEXTS = (
    "stage", "environment", "repo_url", "branch", "commit_hash", "image", "logs_url", "pr_number", "build_number",
)  # fmt: skip
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")
# An epoch from here on is in milliseconds: as milliseconds it is March 1973, as seconds the year 5138.
_MILLISECONDS_FROM = 100_000_000_000


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
    fields = _Fields(report)
    provider = fields.provider()
    said = fields.said(provider)
    given = fields.text("deployment_id")
    if provider is Provider.JENKINS and (not given or fields.names_a_build()):
        parsed = _build(fields, said, settings.controllers)
        if not given or limited_id(given) in map(limited_id, _own_ids(parsed)):
            return parsed
    if given:
        return Parsed(run_of_id(given), said)
    if not fields.text("run"):
        raise ReportError(
            "deployment_id: nothing says which deployment this is; send deployment_id or run, or for Jenkins job and "
            "build_number"
        )
    return Parsed(Run(Project(provider, "", ""), fields.text("run")), said)


def _build(fields: _Fields, said: Report, controllers: tuple[JenkinsSettings, ...]) -> Parsed:
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


class _Fields:
    """A report's fields by name."""

    def __init__(self, report: Mapping[str, object]) -> None:
        self._report = report

    def text(self, name: str) -> str:
        value = self._report.get(name, "")
        return value if isinstance(value, str) else ""

    def moment(self, name: str) -> int | None:
        """UTC milliseconds, in every form that Hivel's page lists (section 5); without a zone it is UTC."""
        text = self.text(name)
        if not text:
            return None
        for parse_it in (_epoch, parse_moment, _mail_date):
            try:
                moment = parse_it(text)
                rfc3339(moment)  # that far into past and future
            except (ValueError, OverflowError):
                continue
            return moment
        raise ReportError(f"{name}: {text!r:.60} is no time; write it like 2026-01-31T18:00:00Z, or as epoch (ms)")

    def provider(self) -> Provider:
        word = self.text("provider")
        if not word:
            about_jenkins = self.text("job") or build_of_url(self.text("build_url")) is not None
            return Provider.JENKINS if about_jenkins else Provider.OTHER
        try:
            return provider_called(word)
        except ValueError as error:
            raise ReportError(f"provider: {error}") from None

    def status(self, provider: Provider) -> str | None:
        """The word as it was said: a slip would go out as a result that nobody knows."""
        word = self.text("status")
        if not word:
            return None
        try:
            parse_word(provider, word)
        except ValueError as error:
            raise UnknownWordError(f"status: {error}") from None
        return word

    def names_a_build(self) -> bool:
        """Whether it says which build of Jenkins it is of."""
        told = build_of_url(self.text("build_url")) is not None
        return told or bool(self.text("job") and self.text("build_number"))

    def job_and_number(self) -> tuple[str, int]:
        """Of a Jenkins build; its URL tells both."""
        told = build_of_url(self.text("build_url"))
        job = self.text("job") or (told[0] if told else "")
        number = self.text("build_number") or (str(told[1]) if told else "")
        if not job:
            raise ReportError("job: nothing says which build this is; send job and build_number, or build_url")
        if not {".", ".."}.isdisjoint(job.split("/")):
            raise ReportError(f"job: {job!r:.60} is no full name of a job")
        if not number.isascii() or not number.isdigit() or len(number) > MOST_DIGITS:
            raise ReportError(f"build_number: {number!r:.60} is no number of a build")
        return job, int(number)

    def said(self, provider: Provider) -> Report:
        """All but what says which run it is of."""
        texts: dict[str, Any] = {name: self.text(name) or None for name in _TEXTS}
        numbers = self._report.get("pr_numbers", [])
        return Report(
            provider=provider.value,
            status=self.status(provider),
            pr_numbers=tuple(numbers) if isinstance(numbers, list) else (),
            url=self.text("build_url") or None,
            started_at=self.moment("start_time"),
            ended_at=self.moment("end_time"),
            given=tuple(name for name in self._names(GIVEN) if name in self._report),
            **texts,
        )

    def _names(self, name: str) -> list[str]:
        names = self._report.get(name, [])
        return [str(each) for each in names] if isinstance(names, list) else []


def _epoch(text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise ValueError
    number = float(text)
    return round(number if abs(number) >= _MILLISECONDS_FROM else number * 1000)


def _mail_date(text: str) -> int:
    moment = parse_http_date(text)
    if moment is None:
        raise ValueError
    return moment
