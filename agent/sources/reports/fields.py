"""Reads the fields of a report. `emit` and the daemon share this code, so they refuse the same reports.

The input has passed :func:`agent.model.report.checked`. `emit` loads this module, so it imports only light modules of
the standard library. Modules that few reports need are imported where they are used.
"""

from __future__ import annotations

from agent.model.git import branch_name
from agent.model.report import MOST_DIGITS, ReportError, UnknownWordError
from agent.model.required import why_no_event
from agent.model.status import Provider, parse_word, provider_called

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

# Numbers from here on are milliseconds since 1970. As milliseconds it is March 1973, as seconds the year 5138.
_MILLISECONDS_FROM = 100_000_000_000
# Allows for a clock with a wrong time zone, and for late reports after a long outage of the agent.
MOST_AHEAD_MS = 86_400_000
MOST_BEFORE_MS = 400 * 86_400_000


class Fields:
    """A report's fields by name. The methods raise :class:`agent.model.report.ReportError` for an invalid value."""

    def __init__(self, report: Mapping[str, object]) -> None:
        self._report = report

    def text(self, name: str) -> str:
        value = self._report.get(name, "")
        return value if isinstance(value, str) else ""

    def moment(self, name: str) -> int | None:
        """The field as UTC milliseconds, in any format of Hivel's page (section 5). The default time zone is UTC."""
        text = self.text(name)
        return None if not text else moment(name, text)

    def provider(self) -> Provider:
        word = self.text("provider")
        if not word:
            return Provider.JENKINS if self.text("job") or self.build_of_url() is not None else Provider.OTHER
        try:
            return provider_called(word)
        except ValueError as error:
            raise ReportError(f"provider: {error}") from None

    def status(self, provider: Provider) -> str | None:
        """The status word as given. An unknown word is refused, because Hivel would show an unknown result."""
        word = self.text("status")
        if not word:
            return None
        try:
            parse_word(provider, word)
        except ValueError as error:
            raise UnknownWordError(f"status: {error}") from None
        return word

    def build_of_url(self) -> tuple[str, int] | None:
        """Job and number that ``build_url`` names; None if it is not the URL of a build."""
        url = self.text("build_url")
        if not url:
            return None
        from agent.model.names import build_of_url  # noqa: PLC0415 - takes urllib

        return build_of_url(url)

    def is_of_jenkins_build(self, provider: Provider) -> bool:
        """Whether the report identifies a Jenkins build, and not only a given id."""
        if provider is not Provider.JENKINS:
            return False
        if not self.text("deployment_id") or (self.text("job") and self.text("build_number")):
            return True
        return self.build_of_url() is not None

    def job_and_number(self) -> tuple[str, int]:
        """Job and number of a Jenkins build. ``build_url`` is used for what ``job`` and ``build_number`` lack."""
        job, number = self.text("job"), self.text("build_number")
        if not (job and number) and (found := self.build_of_url()) is not None:
            job, number = job or found[0], number or str(found[1])
        if not job:
            raise ReportError("job: the report does not identify a build; send job and build_number, or build_url")
        if not {".", ".."}.isdisjoint(job.split("/")):
            raise ReportError(f"job: {job!r:.60} is not the full name of a job")
        if not number.isascii() or not number.isdigit() or len(number) > MOST_DIGITS:
            raise ReportError(f"build_number: {number!r:.60} is not a build number")
        return job, int(number)

    def run(self) -> str:
        """The name of a run of another CI system."""
        if not self.text("run"):
            raise ReportError(
                "deployment_id: the report does not identify a deployment; send deployment_id or run, or for Jenkins "
                "job and build_number"
            )
        return self.text("run")


def refuse_hopeless(report: Mapping[str, object], now: int) -> None:
    """Refuse a report that can never become an event, as far as this is known without configuration and outbox.

    ``report`` was checked for its shape. ``now`` is UTC milliseconds. Raises :class:`agent.model.report.ReportError`.
    """
    fields = Fields(report)
    provider = fields.provider()
    fields.status(provider)
    refuse_far_times(fields.moment("start_time"), fields.moment("end_time"), now)
    if fields.is_of_jenkins_build(provider):
        fields.job_and_number()  # the poller adds what is missing
    elif not fields.text("deployment_id"):  # the id may be that of a stored deployment that has these fields
        fields.run()
        branch = branch_name(fields.text("branch"), commit=fields.text("commit_hash"))
        problem = why_no_event(fields.text("repo_url"), fields.text("environment"), branch)
        if problem is not None:
            raise ReportError(f"invalid report: {problem}")


def refuse_far_times(started_at: int | None, ended_at: int | None, now: int) -> None:
    """Refuse times far from ``now`` (UTC ms, the sender's clock). Raises :class:`agent.model.report.ReportError`."""
    for name, at in (("start_time", started_at), ("end_time", ended_at)):
        if at is None or now - MOST_BEFORE_MS <= at <= now + MOST_AHEAD_MS:
            continue
        from agent.model.times import rfc3339  # noqa: PLC0415

        far = "a day ahead of" if at > now else "400 days before"
        raise ReportError(f"{name}: {rfc3339(at)} is more than {far} the agent's clock, {rfc3339(now)}")


def moment(name: str, text: str) -> int:
    """Parse a time in one of the formats of Hivel's page (section 5); returns UTC milliseconds."""
    from agent.model.times import parse_moment, rfc3339  # noqa: PLC0415

    for parse_it in (_epoch, parse_moment, _mail_date):
        try:
            at = parse_it(text)
            rfc3339(at)  # events allow only the years 1 to 9999
        except (ValueError, OverflowError):
            continue
        return at
    raise ReportError(f"{name}: {text!r:.60} is not a time; write it like 2026-01-31T18:00:00Z, or as Unix time in ms")


def _epoch(text: str) -> int:
    whole, _, fraction = text.removeprefix("-").partition(".")
    if not (whole.isascii() and whole.isdigit()) or ("." in text and not (fraction.isascii() and fraction.isdigit())):
        raise ValueError
    number = float(text)
    return round(number if abs(number) >= _MILLISECONDS_FROM else number * 1000)


def _mail_date(text: str) -> int:
    from agent.model.times import parse_http_date  # noqa: PLC0415

    at = parse_http_date(text)
    if at is None:
        raise ValueError
    return at
