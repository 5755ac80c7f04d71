"""``explain`` and ``preview``: why a build did or did not become an event, and what the rules would send."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from agent.config.rules import Match, first_match
from agent.config.settings import controller_of
from agent.sources.jenkins.raw import Phase
from agent.model.names import build_of_url
from agent.model.times import rfc3339
from agent.outbox.cursors import Cursors
from agent.sources.jenkins.client import JenkinsError, Job, NotFoundError
from agent.sources.jenkins.history import History, Span

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.config.settings import JenkinsSettings, Settings
    from agent.deployments.legacy import Derivation
    from agent.sources.jenkins.raw import RawBuild
    from agent.outbox.sqlite.store import Outbox, Row
    from agent.sources.jenkins.client import JenkinsClient


class ExplainError(Exception):
    """The question makes no sense; the message says what to ask instead."""


class DerivedView(msgspec.Struct, frozen=True):
    """What comes of a build: ``event`` is the payload, ``origins`` says for each field where it came from."""

    deployment_id: str
    event: msgspec.Raw | None
    reason: str | None
    origins: dict[str, str]


class StoredView(msgspec.Struct, frozen=True):
    """What the outbox knows; times are RFC 3339."""

    deployment_id: str
    state: str
    enqueued_at: str
    attempts: int
    reason: str | None


class Explanation(msgspec.Struct, frozen=True):
    """``explain --json``. ``verdict`` is the answer in one sentence."""

    build: str
    verdict: str
    rule: str | None
    jenkins: str
    derived: list[DerivedView]
    outbox: list[StoredView]


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


def preview(settings: Settings, client_of: Callable[[JenkinsSettings], JenkinsClient], span: Span) -> Preview:
    """What the rules would send for the builds of the span; nothing is stored or sent."""
    rows: list[PreviewRow] = []
    unmatched: list[str] = []
    problems: list[str] = []
    for controller in settings.controllers:
        client = client_of(controller)
        try:
            history = History(client, controller.name, settings.rules, settings.options)
            jobs = history.jobs()
            problems += [f"{controller.name}: {problem}" for problem in jobs.problems]
            unmatched += [f"{controller.name}:{job.full_name}" for job in jobs.others]
            for job, match in jobs.deploying:
                for page in history.builds(job, match, span):
                    found = [derivation for past in page for derivation in past.derivations]
                    rows += [PreviewRow(controller.name, job.full_name, _derived(each)) for each in found]
        except JenkinsError as error:
            problems.append(f"{controller.name}: {error}")
        finally:
            client.close()
    return Preview(rfc3339(span.since), rows, unmatched, problems)


def explain(
    settings: Settings,
    outbox: Outbox | None,
    client_of: Callable[[JenkinsSettings], JenkinsClient],
    url: str,
) -> Explanation:
    """Why the build of this URL did or did not become an event. Raises :class:`ExplainError`."""
    found = build_of_url(url)
    if found is None:
        raise ExplainError(f"{url!r} is no URL of a build; it ends with /job/NAME/NUMBER/")
    full_name, number = found
    controller = controller_of(settings.controllers, url)
    if controller is None:
        urls = ", ".join(each.url for each in settings.controllers)
        raise ExplainError(f"{url} is on none of the controllers of the configuration: {urls}")
    match = first_match(settings.rules, full_name)
    client = client_of(controller)
    try:
        return _Question(settings, outbox, client, controller, full_name, number).answer(match)
    finally:
        client.close()


@dataclass(frozen=True)
class _Question:
    """One build, and whom to ask about it."""

    settings: Settings
    outbox: Outbox | None
    client: JenkinsClient
    controller: JenkinsSettings
    full_name: str
    number: int

    def answer(self, match: Match | None) -> Explanation:
        """Everything that is known about the build."""
        raw, derivations, jenkins = self._ask(match)
        rows = self._rows()
        return Explanation(
            build=f"{self.controller.name}:{self.full_name}#{self.number}",
            verdict=self._verdict(match, raw, derivations, rows),
            rule=None if match is None else self._rule(match),
            jenkins=jenkins,
            derived=[_derived(each) for each in derivations],
            outbox=[
                StoredView(row.deployment_id, row.state, rfc3339(row.created_at), row.attempts, row.reason)
                for row in rows
            ],
        )

    def _ask(self, match: Match | None) -> tuple[RawBuild | None, list[Derivation], str]:
        """The build as Jenkins has it now, what comes of it, and that in words."""
        try:
            if match is None:
                raw = self.client.build(self.full_name, self.number)
                return raw, [], _in_words(raw)
            history = History(self.client, self.controller.name, self.settings.rules, self.settings.options)
            raw, past = history.build(self._job(), match, self.number)
        except NotFoundError:
            return None, [], "Jenkins has no such build (any more), or does not show it to this user"
        except JenkinsError as error:
            return None, [], str(error)
        return raw, past.derivations, _in_words(raw)

    def _job(self) -> Job:
        for job in self.client.snapshot().jobs:
            if job.full_name == self.full_name:
                return job
        return Job(self.full_name, self.number + 1, branch_job=False)

    def _rows(self) -> list[Row]:
        """The rows of this build, whatever is behind its id: environments, repositories, reused numbers."""
        if self.outbox is None:
            return []
        return self.outbox.of_build(f"{self.controller.name}:{self.full_name}#{self.number}")

    def _rule(self, match: Match) -> str:
        index = next((i for i, rule in enumerate(self.settings.rules) if rule is match.rule), None)
        return f'[[deployment]] number {(index or 0) + 1}, job = "{match.rule.job.text}"'

    def _verdict(
        self, match: Match | None, raw: RawBuild | None, derivations: list[Derivation], rows: list[Row]
    ) -> str:
        if rows:
            return f"It is in the outbox: {', '.join(sorted({row.state.value for row in rows}))}."
        if match is None:
            return "No event: no [[deployment]] rule matches the job."
        if raw is None:
            return "No event: the build cannot be read, and the outbox does not know it."
        if raw.phase is not Phase.FINAL:
            return "No event yet: the build is not final."
        if not derivations:
            return "No event: the rule names stages, and none of them ran in this build."
        return self._verdict_of_final(raw)

    def _verdict_of_final(self, raw: RawBuild) -> str:
        """A final build that a rule matches and the outbox does not know: what did the poller do?"""
        if self.outbox is None:
            return "No event yet: the agent has not polled."
        cursors = Cursors(self.outbox, self.controller.name)
        state, cursor = cursors.state(), cursors.jobs().get(self.full_name)
        if state is None or state.report_from is None or cursor is None:
            return "No event yet: the agent has not read this job."
        if raw.ended_at < state.report_from:
            return (
                f"No event: the build ended before {rfc3339(state.report_from)}, when the agent started to report; "
                "hivel-agent backfill reports history."
            )
        if raw.number >= cursor.next_build_number:
            return "No event yet: the next poll will read it."
        if any(build.number == raw.number for build in cursors.open_builds().get(self.full_name, [])):
            return "No event yet: the build is followed and will be read again."
        return (
            "No event: the build was passed over, because no rule matched its job at that time, or it was gone when it "
            "was to be read; hivel-agent backfill reports it."
        )


def _derived(derivation: Derivation) -> DerivedView:
    event = derivation.event
    return DerivedView(
        derivation.deployment_id,
        None if event is None else msgspec.Raw(msgspec.json.encode(event)),
        derivation.reason,
        derivation.origins,
    )


def _in_words(raw: RawBuild) -> str:
    match raw.phase:
        case Phase.RUNNING:
            return "still running"
        case Phase.SETTLING:
            return "ended, but result or duration are not written yet"
        case Phase.FINAL:
            return f"{raw.result}, ended"
