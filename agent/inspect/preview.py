"""``preview``: the events that the rules would send."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from agent.inspect.derived import DerivedView, of_build, rules_of
from agent.model.times import rfc3339
from agent.sources.jenkins.client import ControllerDownError, ForbiddenError, JenkinsError, UnauthorizedError
from agent.sources.jenkins.history import History, Span

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.config.rules import Match, Pattern
    from agent.config.settings import JenkinsSettings, Settings
    from agent.deployments.derive import Rules
    from agent.sources.jenkins.client import JenkinsClient, Job


class PreviewRow(msgspec.Struct, frozen=True):
    """One event that the rules would send, or a build that gives no valid event."""

    controller: str
    job: str
    derived: DerivedView


class Preview(msgspec.Struct, frozen=True):
    """``preview --json``; ``unmatched`` are the jobs that no rule matches, as ``controller:job``.

    ``limited``: reading stopped at the requested number of events, and there are more.
    """

    since: str
    rows: list[PreviewRow]
    unmatched: list[str]
    problems: list[str]
    limited: bool = False


@dataclass(frozen=True)
class Sample:
    """Limits for the jobs that match a rule; None: no limit.

    ``job``: only jobs that match. ``jobs``: the number of jobs. ``builds``: the number of builds of each job, newest
    first, read with one request for each job. ``events``: the number of events after which reading stops.
    """

    jobs: int | None = None
    builds: int | None = None
    events: int | None = None
    job: Pattern | None = None


def preview(
    settings: Settings,
    client_of: Callable[[JenkinsSettings], JenkinsClient],
    span: Span,
    sample: Sample = Sample(),
) -> Preview:
    """The events that the rules would send for the builds of the span. Nothing is stored or sent.

    Failures of Jenkins are listed in ``problems``. If a job cannot be read, the others are still shown.
    """
    found, matched = Preview(rfc3339(span.since), [], [], []), 0
    for controller in settings.controllers:
        client = client_of(controller)
        try:
            history = History(client, controller.name, settings.rules, settings.options.libraries)
            matched += _Controller(controller.name, history, rules_of(settings), found).read(span, sample)
        except JenkinsError as error:
            found.problems.append(f"{controller.name}: {error}")
        finally:
            client.close()
    if sample.job is not None and not matched and not found.problems:
        found.problems.append(f"no visible job matches {sample.job.text!r}")
    if sample.events is not None and len(found.rows) > sample.events:
        return replace(found, rows=found.rows[: sample.events], limited=True)
    return found


class _Controller:
    """The jobs of one controller."""

    def __init__(self, name: str, history: History, rules: Rules, found: Preview) -> None:
        self._name = name
        self._history = history
        self._rules = rules
        self._found = found

    def read(self, span: Span, sample: Sample) -> int:
        """The number of jobs that ``sample.job`` selects. Raises :class:`JenkinsError` if no job can be read."""
        jobs = self._history.jobs()
        self._found.problems.extend(f"{self._name}: {problem}" for problem in jobs.problems)
        self._found.unmatched.extend(
            f"{self._name}:{job.full_name}" for job in jobs.others if is_wanted(sample.job, job.full_name)
        )
        built = [
            (job, match)
            for job, match in jobs.deploying
            if job.next_build_number > 1 and is_wanted(sample.job, job.full_name)
        ]
        for job, match in built[: sample.jobs]:
            try:
                self._job(job, match, span, sample)
            except JenkinsError as error:
                if is_of_controller(error):
                    raise
                self._found.problems.append(f"{self._name}: job {job.full_name}: {error}")
        return sum(is_wanted(sample.job, job.full_name) for job in (*jobs.others, *(job for job, _ in jobs.deploying)))

    def _job(self, job: Job, match: Match, span: Span, sample: Sample) -> None:
        if self._is_full(sample):
            return
        for page in self._history.builds(job, match, span, sample.builds):
            for build in page:
                rows = [PreviewRow(self._name, job.full_name, each) for each in of_build(build, self._rules)]
                self._found.rows.extend(rows)
            if self._is_full(sample):
                return

    def _is_full(self, sample: Sample) -> bool:
        """Whether there are more events than requested. One more is read to know that."""
        return sample.events is not None and len(self._found.rows) > sample.events


def is_wanted(pattern: Pattern | None, full_name: str) -> bool:
    """Whether the job was requested; ``pattern`` None: all jobs are."""
    return pattern is None or pattern.match(full_name) is not None


def is_of_controller(error: JenkinsError) -> bool:
    """Whether the error is one of the whole controller, so that other requests would fail too."""
    down = isinstance(error, ControllerDownError)
    return down or (isinstance(error, UnauthorizedError) and not isinstance(error, ForbiddenError))
