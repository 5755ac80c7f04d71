"""Reports that are kept on this machine's disk because the outbox is elsewhere and cannot be reached now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import msgspec

from agent.model.report import ReportError, decode

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agent.outbox.values import StoredReport

# A report of the intake is wrapped, because its team must not get lost. No report begins like this.
_BEGINS = '{"intake":'


@dataclass(frozen=True)
class Kept:
    """A report with its source and, from the intake, the owner of the token."""

    report: dict[str, object]
    source: str = "emit"
    team: str = ""


class _Intake(msgspec.Struct):
    team: str
    report: msgspec.Raw


def wrapped(report: Mapping[str, object], team: str) -> str:
    """A report of the intake as text for the inbox."""
    inner = _Intake(team, msgspec.Raw(msgspec.json.encode(report)))
    return f"{_BEGINS}{msgspec.json.encode(inner).decode()}}}"


def unwrapped(body: str) -> Kept:
    """A report of the inbox. Raises :class:`agent.model.report.ReportError`."""
    if not body.startswith(_BEGINS):
        return Kept(decode(body.encode("utf-8", "replace")))
    try:
        inner = msgspec.json.decode(body[len(_BEGINS) : -1], type=_Intake)
    except msgspec.MsgspecError as error:
        raise ReportError(f"invalid report: what the intake stored is damaged: {error}") from None
    return Kept(decode(bytes(inner.report)), "intake", inner.team)


class Local(Protocol):
    """The inbox in the local file."""

    def reports(self, limit: int) -> list[StoredReport]:
        """The oldest reports."""
        ...

    def remove_report(self, report: StoredReport) -> None:
        """Remove a report."""
        ...


class Moved(Protocol):
    """Which reports the outbox has already, in its current transaction."""

    def known(self, reports: Sequence[StoredReport]) -> list[StoredReport]:
        """Those that were stored before, although this machine did not learn it."""
        ...

    def note(self, report: StoredReport) -> None:
        """This report is stored with the current transaction."""
        ...


class LocalInbox:
    """The local inbox as that of an outbox elsewhere: nothing is lost or stored twice if the connection breaks.

    A report is deleted here after the outbox has committed it. If that is not known, the report is tried again, and the
    outbox knows it by its origin.
    """

    def __init__(self, local: Local, moved: Moved) -> None:
        self._local = local
        self._moved = moved
        self._stored: list[StoredReport] = []

    def reports(self, limit: int) -> list[StoredReport]:
        """The oldest reports that the outbox does not have."""
        self._stored.clear()
        while found := self._local.reports(limit):
            known = self._moved.known(found)
            for report in known:
                self._local.remove_report(report)
            if new := [report for report in found if report not in known]:
                return new
        return []

    def remove_report(self, report: StoredReport) -> None:
        """The current transaction of the outbox stores it."""
        self._moved.note(report)
        self._stored.append(report)

    def committed(self) -> None:
        """The transaction was committed: the reports are not needed here any more."""
        for report in self._stored:
            self._local.remove_report(report)
        self._stored.clear()
