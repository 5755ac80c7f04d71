"""From a report to its event: what a build said of itself becomes a row of the outbox, once.

A report of a whole Jenkins build is early: the build still runs and can get worse. Its event is *held* until the
poller has the final word, or until ``hold_for`` is over. A stage's event is final at once, and so is that of
any other CI system, and of a controller that nobody polls.
"""

from __future__ import annotations

import email.utils
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import structlog
from msgspec.structs import replace

from agent.config.rules import match_of_reporting
from agent.config.settings import controller_of
from agent.deployments.legacy import (
    Derivation,
    derive,
    from_json,
    reported_in,
    to_json,
    written_environment,
    written_repo_url,
)
from agent.ingest.told import ended_at, environment_of
from agent.model import event as events
from agent.model.build import Build, Reported
from agent.model.fact import SAME_BUILD_MS
from agent.model.event import InvalidEventError
from agent.model.git import branch_name
from agent.model.names import build_of_url
from agent.model.report import ReportError, checked, decode
from agent.model.status import Provider, Status, normalise, normalise_any
from agent.model.times import parse_moment, rfc3339
from agent.outbox.cursors import Cursors
from agent.outbox.sqlite.store import Entry, State

if TYPE_CHECKING:
    from agent.config.settings import JenkinsSettings, Settings
    from agent.outbox.sqlite.store import Outbox, Row, StoredReport

log = structlog.get_logger("hook")

AT_ONCE = 100
# Jenkins tells its time in whole seconds, and some time after it read its clock.
SAME_CLOCK_MS = 60_000
_SAYS_WHICH = ("deployment_id", "run", "controller", "job", "build_number", "stage")
# Hivel's own words for a result, in Jenkins'.
_RESULTS = {"FAILED": "FAILURE", "CANCELED": "ABORTED", "CANCELLED": "ABORTED", "UNKNOWN": ""}
_SAID = ("stage", "environment", "repo_url", "branch", "commit_hash", "image", "logs_url", "pr_number")


@dataclass(frozen=True)
class Taken:
    """What became of a report. ``state``: that of its event; ``controller``: whose poller should look now."""

    deployment_id: str
    state: State
    controller: str | None = None


class TakeUp:
    """Makes events of reports. Every method raises :class:`agent.outbox.values.OutboxError`."""

    def __init__(self, settings: Settings, outbox: Outbox) -> None:
        self._settings = settings
        self._outbox = outbox

    def take_stored(self) -> list[Taken]:
        """Make events of the reports that ``emit`` stored; a wrong one becomes a failed event."""
        taken: list[Taken] = []
        while self._outbox.has_reports():
            with self._outbox.transaction():  # a poller takes them, too
                for report in self._outbox.reports(AT_ONCE):
                    taken.append(self._take_one(report))
                    self._outbox.remove_report(report)
        return taken

    def _take_one(self, stored: StoredReport) -> Taken:
        report: dict[str, object] = {}
        try:
            report = decode(stored.body.encode("utf-8", "replace"))
            return self.take(report, stored.received_at)
        except ReportError as error:
            said = ", ".join(f"{name} {report[name]}" for name in _SAYS_WHICH if name in report)
            reason = f"{error}; the report is of {said}" if said else str(error)
            log.error("report is wrong", reason=reason)
            name = f"unreadable-report:{stored.received_at}:{stored.id}"
            self._outbox.enqueue([Entry(name, stored.received_at, None, reason=reason, reported="")])
            return Taken(name, State.FAILED)

    def take(self, report: dict[str, object], received_at: int) -> Taken:
        """Store the event of a report that was checked for its shape; ``received_at`` in UTC milliseconds.

        Raises :class:`agent.model.report.ReportError` when the report does not say what it is about.
        """
        said = _Fields(checked(report))
        started_at, ended_at = said.moment("start_time"), said.moment("end_time")
        provider = said.provider()
        with self._outbox.transaction():  # a poller may be about to store the same build
            if provider is Provider.JENKINS and not said.text("deployment_id"):
                taken = self._build(said, started_at, ended_at, received_at)
            else:
                ended_at = received_at if ended_at is None else ended_at
                taken = self._run(said, provider, ended_at if started_at is None else started_at, ended_at)
        log.info("reported", deployment_id=taken.deployment_id, state=taken.state.value)
        return taken

    # ---- builds of Jenkins

    def _build(self, said: _Fields, started_at: int | None, ended_at: int | None, received_at: int) -> Taken:
        job, number = said.job_and_number()
        polled = self._controller(said)
        if ended_at is None:
            ended_at = received_at + self._clock_ahead_ms(polled)
        controller = polled.name if polled else said.text("controller") or urlsplit(said.text("build_url")).netloc
        build = Build(
            controller=controller or "jenkins",
            job=job,
            number=number,
            url=said.text("build_url"),
            result=_RESULTS.get(said.text("status").upper(), said.text("status").upper()) or None,
            started_at=ended_at if started_at is None else started_at,
            ended_at=ended_at,
            reported=said.reported(),
            early=not said.text("stage"),
        )
        hold_until = received_at + self._settings.hold_for_ms if polled else None
        name = polled.name if polled else None
        if build.reported is not None and build.reported.stage:
            return self._stage(build, build.reported.stage, name)
        return self._whole(build, build.reported or Reported(), hold_until, name)

    def _controller(self, said: _Fields) -> JenkinsSettings | None:
        """The controller that polls this build, if any does."""
        controllers = self._settings.controllers
        if name := said.text("controller"):
            return next((controller for controller in controllers if controller.name == name), None)
        return controller_of(controllers, said.text("build_url"))

    def _clock_ahead_ms(self, controller: JenkinsSettings | None) -> int:
        """What turns this machine's time into that of the controller, by which its builds are told apart."""
        state = None if controller is None else Cursors(self._outbox, controller.name).state()
        ahead = (state and state.clock_ahead_ms) or 0
        return ahead if abs(ahead) > SAME_CLOCK_MS else 0

    def _stage(self, build: Build, stage: str, controller: str | None) -> Taken:
        """Under the environment's name, or with the stage's behind it where another stage has that."""
        derived = self._derived(build)
        whole = self._polled_whole(build)
        if whole is not None and whole.payload is None:
            return self._store(_entry(build, derived, reported=stage), whole, controller)
        environment = derived.event.environment if derived.event else None
        if whole is not None and environment in (environment_of(whole), None):
            return _taken(whole, controller)
        name, row = self._place(derived.deployment_id, build, stage)
        if row is not None and row.reported not in (None, stage):
            name, row = self._place(events.part_deployment_id(derived.deployment_id, stage), build, stage)
        if row is not None and row.reported is None and row.state is not State.FAILED:
            return _taken(row, controller)  # the poller found this stage before
        return self._store(_entry(build, derived.renamed(name), reported=stage), row, controller)

    def _polled_whole(self, build: Build) -> Row | None:
        """The event that the poller made of the whole build because the report came too late."""
        base = events.build_deployment_id(build.controller, build.job, build.number)
        rows = [row for row in self._outbox.of_build(base) if row.reported is None and _is_of(row, build)]
        return next((row for row in rows if row.deployment_id in (base, _reused(base, row))), None)

    def _place(self, name: str, build: Build, stage: str) -> tuple[str, Row | None]:
        """The id of an event and its row if it has one; a job of the same name may have had the number before."""
        rows = [row for row in self._outbox.of_build(name) if row.deployment_id.removeprefix(name)[:1] in ("", "@")]
        mine = [row for row in rows if _is_of(row, build)]
        if mine:
            row = next((row for row in mine if row.reported == stage), mine[0])
            return row.deployment_id, row
        return (events.reused_number_id(name, build.started_at) if rows else name), None

    def _whole(self, build: Build, said: Reported, hold_until: int | None, controller: str | None) -> Taken:
        """Under the build's id; where the build reports several environments, with the environment behind it."""
        base = events.build_deployment_id(build.controller, build.job, build.number)
        rows = [row for row in self._outbox.of_build(base) if not row.reported and _is_of(row, build)]
        row = self._same_environment(rows, said)
        if row is not None and row.reported is None and row.deployment_id not in (base, _reused(base, row)):
            return _taken(row, controller)  # one of several that the poller made of this build
        if row is not None and row.source is not None:
            before = from_json(row.source)
            # The poller's word is the final one; what was reported earlier and is not said again still holds.
            build = replace(build if before.early else before, reported=_merged(before.reported, said))
        if row is not None and row.state is not State.HELD:
            # It may be on its way to Hivel under this id; the poller was faster, or it was waited for long enough.
            return self._store(_entry(build, self._derived(build).renamed(row.deployment_id), reported=""), row,
                               controller)  # fmt: skip
        taken = self._outbox.find_exactly(base)
        if taken is not None and not _is_of(taken, build):
            base = events.reused_number_id(base, min((row.started_at for row in rows), default=build.started_at))
        others = [other for other in rows if row is None or other.id != row.id]
        for other in others:
            self._name_its_environment(other, base)
        environment = build.reported.environment if build.reported else None
        name = events.part_deployment_id(base, environment or "") if others else base
        entry = _entry(build, self._derived(build).renamed(name), reported="", hold_until=hold_until)
        return self._store(entry, row, controller)

    def _same_environment(self, rows: list[Row], said: Reported) -> Row | None:
        """The event that this report is of. Where one of the two names no environment, there is only one."""
        if said.environment is None:
            return rows[0] if rows else None
        names = {said.environment, written_environment(said.environment, self._settings.options)}
        for row in rows:
            if environment_of(row) in names:
                return row
        return next((row for row in rows if not _names_environment(row)), None)

    def _name_its_environment(self, row: Row, base: str) -> None:
        """The build reports a second environment: the id of the first one's event gets its environment, too."""
        if row.deployment_id != base or row.source is None or row.state is not State.HELD:
            return
        build = from_json(row.source)
        name = events.part_deployment_id(base, environment_of(row) or "")
        entry = _entry(build, self._derived(build).renamed(name), reported="", hold_until=row.next_attempt_at)
        self._store(entry, row, None)

    def _derived(self, build: Build) -> Derivation:
        """The event; the first one where the poller knows of several repositories."""
        return derive(build, match_of_reporting(self._settings.rules, build.job), self._settings.options)[0]

    def _store(self, entry: Entry, row: Row | None, controller: str | None) -> Taken:
        entry = self._outbox.under_free_id(entry, [] if row is None else [row])
        if row is None:
            added = self._outbox.enqueue([entry])
            if not added:  # it was delivered, and deleted by retention
                return Taken(entry.deployment_id, State.DELIVERED, controller)
            row = self._outbox.find_exactly(added[0].deployment_id)
        elif entry.event is not None or row.state is not State.PENDING:
            self._outbox.rewrite(row, entry)
            row = self._outbox.row(row.id)
        return Taken(entry.deployment_id, State.DELIVERED, controller) if row is None else _taken(row, controller)

    # ---- other systems

    def _run(self, said: _Fields, provider: Provider, started_at: int, ended_at: int) -> Taken:
        options = self._settings.options
        environment, repo_url = said.text("environment"), said.text("repo_url")
        name = said.text("deployment_id")
        if not name:
            if not said.text("run"):
                raise ReportError(
                    "deployment_id: nothing says which deployment this is; send deployment_id or run, or for Jenkins "
                    "job and build_number"
                )
            parts = [part for part in (environment, said.text("stage")) if part]
            name = events.part_deployment_id(said.text("run"), *parts)
        branch = said.text("branch")
        numbers = said.pull_requests()
        try:
            event = events.completed(
                deployment_id=name,
                status=_status(provider, said.text("status")),
                started_at=started_at,
                ended_at=ended_at,
                repo_url=written_repo_url(repo_url, options) if repo_url else None,
                environment=written_environment(environment, options) if environment else None,
                branch=branch_name(branch) if branch else None,
                commit_hash=said.text("commit_hash") or None,
                build_number=said.text("build_number") or None,
                pr_number=said.text("pr_number") or (str(numbers[0]) if numbers else None),
                pr_numbers=numbers,
                image=said.text("image") or None,
                logs_url=said.text("logs_url") or said.text("build_url") or None,
            )
        except InvalidEventError as error:
            raise ReportError(f"{error} in the report") from None
        entry = Entry(event.deployment_id, started_at, None, event, reported=said.text("stage"))
        row = self._outbox.find_exactly(entry.deployment_id)
        return self._store(entry, row, None)


class _Fields:
    """A report's fields by name."""

    def __init__(self, report: dict[str, object]) -> None:
        self._report = report

    def text(self, name: str) -> str:
        value = self._report.get(name, "")
        return value if isinstance(value, str) else ""

    def moment(self, name: str) -> int | None:
        """UTC milliseconds, in every form that Hivel's page lists (section 5)."""
        text = self.text(name)
        if not text:
            return None
        for parse in (_epoch, parse_moment, _mail_date):
            try:
                moment = parse(text)
                rfc3339(moment)  # that far into past and future
            except (ValueError, OverflowError, TypeError, IndexError):
                continue
            return moment
        raise ReportError(f"{name}: {text!r:.60} is no time; write it like 2026-01-31T18:00:00Z, or as epoch (ms)")

    def provider(self) -> Provider:
        word = self.text("provider")
        if not word:
            about_jenkins = self.text("job") or build_of_url(self.text("build_url")) is not None
            return Provider.JENKINS if about_jenkins else Provider.OTHER
        try:
            return Provider(word.lower())
        except ValueError:
            raise ReportError(f"provider: {word!r:.60} is not known; there are {', '.join(Provider)}") from None

    def job_and_number(self) -> tuple[str, int]:
        """Of a Jenkins build; its URL tells both."""
        told = build_of_url(self.text("build_url"))
        job = self.text("job") or (told[0] if told else "")
        number = self.text("build_number") or (str(told[1]) if told else "")
        if not job:
            raise ReportError("job: nothing says which build this is; send job and build_number, or build_url")
        if not number.isascii() or not number.isdigit() or len(number) > 10:
            raise ReportError(f"build_number: {number!r:.60} is no number of a build")
        return job, int(number)

    def pull_requests(self) -> tuple[int, ...]:
        numbers = self._report.get("pr_numbers", [])
        return tuple(numbers) if isinstance(numbers, list) else ()

    def reported(self) -> Reported:
        """What the build said of itself, but for what says which build it is."""
        texts: dict[str, Any] = {name: self.text(name) or None for name in _SAID}
        return Reported(**texts, pr_numbers=self.pull_requests())


def _status(provider: Provider, word: str) -> Status:
    """The system's word, or one of Hivel's own four."""
    if word.lower() in list(Status):
        return Status(word.lower())
    return normalise_any(word) if provider is Provider.OTHER else normalise(provider, word)


def _epoch(text: str) -> int:
    if not re.fullmatch(r"-?\d+(\.\d+)?", text):
        raise ValueError
    number = float(text)
    return round(number if abs(number) >= 100_000_000_000 else number * 1000)


def _mail_date(text: str) -> int:
    return round(email.utils.parsedate_to_datetime(text).timestamp() * 1000)


def _is_of(row: Row, build: Build) -> bool:
    """Whether the event is of the build that reports now, and not of one that had its number before.

    Two of them never ran at the same time. In doubt it is another one: the poller puts together what belongs together.
    """
    if row.started_at > max(build.started_at, build.ended_at) + SAME_BUILD_MS:
        return False
    end = ended_at(row)
    return end is None or build.started_at <= end + SAME_BUILD_MS


def _names_environment(row: Row) -> bool:
    """Whether the build itself named it."""
    said = reported_in(row.source)
    return row.reported is not None and (said is None or said.environment is not None)


def _reused(base: str, row: Row) -> str:
    return events.reused_number_id(base, row.started_at)


def _merged(before: Reported | None, said: Reported) -> Reported:
    told = {name: value for name in said.__struct_fields__ if (value := getattr(said, name))}
    return replace(before or Reported(), **told)


def _taken(row: Row, controller: str | None) -> Taken:
    return Taken(row.deployment_id, row.state, controller)


def _entry(build: Build, derived: Derivation, *, reported: str, hold_until: int | None = None) -> Entry:
    return Entry(
        derived.deployment_id, build.started_at, to_json(build), derived.event, derived.reason,
        reported=reported, hold_until=hold_until,
    )  # fmt: skip
