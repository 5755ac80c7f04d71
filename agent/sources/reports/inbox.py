"""The inbox: processes the reports that ``emit`` stored, in the order of their arrival."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec
import structlog

from agent.model.fact import Fact, Kind, word_of
from agent.model.ids import run_id
from agent.model.keys import run_of_id
from agent.model.report import ReportError, UnknownWordError
from agent.model.secrets import trace
from agent.outbox.values import OutboxError, SetAside
from agent.sources.reports.accept import Said, Taken, tell
from agent.sources.reports.kept import unwrapped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.outbox.values import StoredReport
    from agent.sources.reports.accept import Reports
    from agent.sources.reports.parse import Parsed

log = structlog.get_logger("reports")

# Reports in one transaction. A larger one would block other writers for too long.
AT_ONCE = 100
_SAYS_WHICH = ("deployment_id", "run", "controller", "job", "build_number", "stage")


class Inbox(Protocol):
    """Where reports wait: the outbox itself, or the disk of this machine while the outbox is elsewhere."""

    def reports(self, limit: int) -> list[StoredReport]:
        """The oldest reports that are not processed."""
        ...

    def remove_report(self, report: StoredReport) -> None:
        """Remove a report with the current transaction of the outbox."""
        ...


def take_inbox(reports: Reports) -> list[Taken]:
    """Process all reports in the inbox. Each batch is committed.

    Raises :class:`agent.outbox.values.OutboxError`; reports that are not committed stay in the inbox.
    """
    taken: list[Taken] = []
    while (batch := take_batch(reports)) is not None:
        taken += batch
    return taken


def take_batch(reports: Reports, inbox: Inbox | None = None) -> list[Taken] | None:
    """Process the oldest reports in one transaction; None if the inbox is empty. Raises like :func:`take_inbox`.

    ``inbox`` None: that of the outbox. An invalid report becomes a failed deployment with the reason. A report that
    causes an unexpected error is set aside and does not block the others.
    """
    inbox = inbox or reports.outbox
    try:
        return _take(reports, inbox, AT_ONCE)
    except OutboxError:
        raise
    except Exception as error:  # noqa: BLE001 - the report that caused it is found below
        log.warning("batch failed; processing reports one by one", reason=f"{type(error).__name__}: {error}")
    taken: list[Taken] = []
    for _ in range(AT_ONCE):
        one = _take_one(reports, inbox)
        if one is None:
            break
        taken += one
    return taken


def _take(reports: Reports, inbox: Inbox, limit: int) -> list[Taken] | None:
    with reports.outbox.transaction():  # a poller takes reports too
        stored = inbox.reports(limit)
        if not stored:
            return None
        taken = reports.accept(_read(reports, stored))
        for report in stored:
            inbox.remove_report(report)
    tell(taken)
    return taken


def _take_one(reports: Reports, inbox: Inbox) -> list[Taken] | None:
    """Process the oldest report, or set it aside; None if the inbox is empty."""
    oldest = next(iter(inbox.reports(1)), None)
    if oldest is None:
        return None
    try:
        return _take(reports, inbox, 1) or []
    except OutboxError:
        raise
    except Exception as error:
        log.exception("report set aside: unexpected error", report=oldest.id)
        outbox = reports.outbox
        with outbox.transaction():
            if oldest in inbox.reports(1):
                now = outbox.clock.now_ms()
                subject = f"report {oldest.received_at}:{oldest.id}"
                outbox.set_aside(SetAside(now, "report", subject, trace(error), body=oldest.body))
                inbox.remove_report(oldest)
        return []


def _read(reports: Reports, stored: Sequence[StoredReport]) -> list[Said]:
    said: list[Said] = []
    for each in stored:
        try:
            kept = unwrapped(each.body)
            parsed = _parsed(reports, kept.report)
            said.append(reports.read(parsed, source=kept.source, at=each.received_at, principal=kept.team, behind=said))
        except ReportError as error:
            said.append(Said(_unreadable(each, str(error))))
    return said


def _parsed(reports: Reports, report: dict[str, object]) -> Parsed:
    """Parse a report. An unknown status, which older versions of ``emit`` did not refuse, is ignored."""
    try:
        return reports.parse(report)
    except UnknownWordError as error:
        parsed = reports.parse({name: value for name, value in report.items() if name != "status"})
        log.warning("unknown status ignored", deployment_id=run_id(parsed.run), reason=str(error))
        return parsed


def _says_which(body: str) -> str:
    """Which build an invalid report is about, as far as it can be read."""
    try:
        report = msgspec.json.decode(body.encode("utf-8", "replace"))
    except (msgspec.DecodeError, RecursionError):
        return ""
    told = {name: report.get(name) for name in _SAYS_WHICH} if isinstance(report, dict) else {}
    of = ", ".join(f"{name} {value!s:.200}" for name, value in told.items() if isinstance(value, str | int))
    return f"; the report is about {of}" if of else ""


def _unreadable(stored: StoredReport, reason: str) -> Fact:
    """The fact of an invalid report. It becomes a failed deployment that shows the reason."""
    return Fact(
        run=run_of_id(f"unreadable-report:{stored.received_at}:{stored.id}"),
        source="emit",
        kind=Kind.UNREADABLE,
        received_at=stored.received_at,
        word=word_of(Kind.UNREADABLE, stored.id, stored.received_at),
        body=f"{reason}{_says_which(stored.body)}",
    )
