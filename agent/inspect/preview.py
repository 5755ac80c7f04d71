"""``preview``: what the rules would send."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from agent.inspect.derived import DerivedView, of_build, rules_of
from agent.model.times import rfc3339
from agent.sources.jenkins.client import ControllerDownError, ForbiddenError, JenkinsError, UnauthorizedError
from agent.sources.jenkins.history import History, Span

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.config.rules import Match
    from agent.config.settings import JenkinsSettings, Settings
    from agent.deployments.derive import Rules
    from agent.sources.jenkins.client import JenkinsClient, Job


class PreviewRow(msgspec.Struct, frozen=True):
    """One event that the rules would send, or a build of which none can be made."""

    controller: str
    job: str
    derived: DerivedView


class Preview(msgspec.Struct, frozen=True):
    """``preview --json``; ``unmatched`` are the jobs that no rule matches, as ``controller:job``."""

    since: str
    rows: list[PreviewRow]
    unmatched: list[str]
    problems: list[str]


@dataclass(frozen=True)
class Sample:
    """The newest ``builds`` of the first ``jobs`` that deploy: enough for an impression, with one request a job."""

    jobs: int
    builds: int


def preview(
    settings: Settings,
    client_of: Callable[[JenkinsSettings], JenkinsClient],
    span: Span,
    sample: Sample | None = None,
) -> Preview:
    """What the rules would send for the builds of the span; nothing is stored or sent.

    What Jenkins does wrong is among the ``problems``; a job that cannot be read keeps nobody else from being shown.
    """
    found = Preview(rfc3339(span.since), [], [], [])
    for controller in settings.controllers:
        client = client_of(controller)
        try:
            history = History(client, controller.name, settings.rules, settings.options.libraries)
            _Controller(controller.name, history, rules_of(settings), found).read(span, sample)
        except JenkinsError as error:
            found.problems.append(f"{controller.name}: {error}")
        finally:
            client.close()
    return found


class _Controller:
    """The jobs of one controller."""

    def __init__(self, name: str, history: History, rules: Rules, found: Preview) -> None:
        self._name = name
        self._history = history
        self._rules = rules
        self._found = found

    def read(self, span: Span, sample: Sample | None) -> None:
        """Raises :class:`JenkinsError` when the whole controller cannot be read."""
        jobs = self._history.jobs()
        self._found.problems.extend(f"{self._name}: {problem}" for problem in jobs.problems)
        self._found.unmatched.extend(f"{self._name}:{job.full_name}" for job in jobs.others)
        built = [each for each in jobs.deploying if each[0].next_build_number > 1]
        for job, match in built[: sample.jobs] if sample else built:
            try:
                self._job(job, match, span, sample.builds if sample else None)
            except JenkinsError as error:
                if is_of_controller(error):
                    raise
                self._found.problems.append(f"{self._name}: job {job.full_name}: {error}")

    def _job(self, job: Job, match: Match, span: Span, most: int | None) -> None:
        for page in self._history.builds(job, match, span, most):
            for build in page:
                rows = [PreviewRow(self._name, job.full_name, each) for each in of_build(build, self._rules)]
                self._found.rows.extend(rows)


def is_of_controller(error: JenkinsError) -> bool:
    """Whether no other question would be answered."""
    down = isinstance(error, ControllerDownError)
    return down or (isinstance(error, UnauthorizedError) and not isinstance(error, ForbiddenError))
