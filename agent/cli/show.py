"""What people and machines read: tables, or with ``--json`` one JSON document on standard output."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agent.model.times import describe_duration, rfc3339
from agent.outbox.sqlite.store import Attempt, Row, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from rich.console import Console

    from agent.daemon.service import OnceReport
    from agent.ingest.replay import Outcome
    from agent.inspect.check import Finding
    from agent.inspect.explain import Explanation, Preview
    from agent.inspect.status import DeliveryStatus, Status
    from agent.sources.jenkins.backfill import BackfillReport

_STATE_STYLES = {
    "pending": "yellow",
    "held": "cyan",
    "delivered": "green",
    "failed": "red",
    "ok": "green",
    "open": "green",
    "warning": "yellow",
    "never polled": "yellow",
    "never ran": "yellow",
    "outage": "yellow",
}


class AttemptView(msgspec.Struct, frozen=True):
    """An attempt in ``queue show --json``; ``at`` is RFC 3339, ``duration_ms`` milliseconds."""

    at: str
    duration_ms: int
    http_status: int | None
    verdict: str
    answer: str


class EventView(msgspec.Struct, frozen=True):
    """An event in ``queue list --json``; times are RFC 3339. ``event`` is the payload as it is stored."""

    id: int
    deployment_id: str
    state: State
    reason: str | None
    attempts: int
    created_at: str
    next_attempt_at: str | None
    settled_at: str | None
    event: msgspec.Raw | None


class DetailView(msgspec.Struct, frozen=True):
    """``queue show --json``: the event, every attempt, and what it can be derived from again."""

    event: EventView
    attempts: list[AttemptView]
    source: msgspec.Raw | None


def event_view(row: Row) -> EventView:
    """A row of the outbox for the eyes of others."""
    return EventView(
        id=row.id,
        deployment_id=row.deployment_id,
        state=row.state,
        reason=row.reason,
        attempts=row.attempts,
        created_at=rfc3339(row.created_at),
        next_attempt_at=rfc3339(row.next_attempt_at) if row.state is State.PENDING else None,
        settled_at=None if row.settled_at is None else rfc3339(row.settled_at),
        event=None if row.payload is None else msgspec.Raw(row.payload.encode()),
    )


def detail_view(row: Row, attempts: Iterable[Attempt]) -> DetailView:
    """A row with its attempts."""
    return DetailView(
        event=event_view(row),
        attempts=[AttemptView(rfc3339(a.at), a.duration_ms, a.http_status, a.verdict, a.answer) for a in attempts],
        source=None if row.source is None else msgspec.Raw(row.source.encode()),
    )


def as_json(value: object) -> None:
    """One JSON document and a line end."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def console() -> Console:
    """Rich, with room for a table where the output is no terminal."""
    from rich.console import Console  # noqa: PLC0415 - `--json` and errors do without

    return Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 180)


def _styled(state: str) -> str:
    return f"[{_STATE_STYLES.get(state, 'red')}]{state}[/]"


def events(rows: list[Row]) -> None:
    """``queue list`` for people."""
    from rich.markup import escape  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    if not rows:
        console().print("no events")
        return
    table = Table(box=None, header_style="bold")
    for column in ("ID", "STATE", "DEPLOYMENT_ID", "STATUS", "ENVIRONMENT", "ENQUEUED", "TRIED", "REASON"):
        table.add_column(column, overflow="fold", justify="right" if column in {"ID", "TRIED"} else "left")
    for row in rows:
        fields = {} if row.payload is None else msgspec.json.decode(row.payload)
        table.add_row(
            str(row.id),
            _styled(row.state),
            escape(row.deployment_id),
            fields.get("status", "-"),
            escape(fields.get("environment", "-")),
            rfc3339(row.created_at)[:19] + "Z",
            str(row.attempts),
            escape(row.reason or ""),
        )
    console().print(table)


def event(row: Row, attempts: list[Attempt]) -> None:
    """``queue show`` for people."""
    from rich.markup import escape  # noqa: PLC0415

    out = console()
    out.print(f"{escape(row.deployment_id)}  {_styled(row.state)}  (number {row.id} in the outbox)")
    if row.reason:
        out.print(f"  reason: {escape(row.reason)}")
    out.print(f"  enqueued {rfc3339(row.created_at)}")
    if row.state is State.PENDING:
        out.print(f"  next attempt {rfc3339(row.next_attempt_at)}")
    if row.settled_at is not None:
        out.print(f"  settled {rfc3339(row.settled_at)}")
    for title, text in (("event", row.payload), ("derived from", row.source)):
        if text is not None:
            out.print(f"  {title}:")
            out.print(escape(msgspec.json.format(text, indent=2)))
    out.print(f"  attempts: {len(attempts)}")
    for attempt in attempts:
        status = attempt.http_status if attempt.http_status is not None else "no answer"
        out.print(f"    {rfc3339(attempt.at)}  {attempt.duration_ms} ms  {status}  {attempt.verdict}")
        out.print(f"      {escape(attempt.answer)}")


def status(value: Status) -> None:
    """``status`` for people."""
    from rich.markup import escape  # noqa: PLC0415

    out = console()
    daemon = "no daemon is running" if value.daemon_pid is None else f"daemon is process {value.daemon_pid}"
    out.print(f"outbox    {escape(value.outbox)}, {daemon}")
    counts = value.events
    waiting = "" if value.oldest_pending_ms is None else f" (oldest waits {describe_duration(value.oldest_pending_ms)})"
    failed = "[red]failed[/]" if counts.failed else "failed"
    out.print(
        f"events    {counts.pending} pending{waiting}, {counts.held} held, "
        f"{counts.delivered} delivered, {counts.failed} {failed}"
    )
    out.print(_delivery(value.delivery))
    if value.repaired is not None:
        told = f"{value.repaired.problem}; {value.repaired.events} events were recovered from {value.repaired.moved_to}"
        out.print(f"repaired  [red]the outbox was damaged[/], found {value.repaired.at}: {escape(told)}")
    for controller in value.controllers:
        since = "" if controller.since is None else f" since {controller.since}"
        polled = "" if controller.polled_at is None else f", polled {controller.polled_at}"
        jobs = "" if controller.jobs is None else f", {controller.jobs} jobs, {controller.open_builds} builds followed"
        out.print(f"jenkins   {escape(controller.name)}: {_styled(controller.state)}{since}{polled}{jobs}")
        if controller.last_error:
            out.print(f"          {escape(controller.last_error)}")
    for missed in value.missed[:10]:
        out.print(
            f"missed    {missed.builds} build(s) of {escape(missed.job)} on {escape(missed.controller)} were gone "
            f"before they could be read, up to #{missed.newest_number}, noted {missed.noted_at}"
        )
    if len(value.missed) > 10:
        out.print(f"missed    … and of {len(value.missed) - 10} more jobs: status --json")


def _delivery(value: DeliveryStatus) -> str:
    from rich.markup import escape  # noqa: PLC0415

    since = f" since {value.since}" if value.since else ""
    reason = f": {escape(value.reason)}" if value.reason else ""
    return f"delivery  {_styled(value.state)}{since}{reason}"


def findings(values: list[Finding]) -> None:
    """``check`` for people."""
    from rich.markup import escape  # noqa: PLC0415

    out = console()
    for finding in values:
        padding = " " * (len("warning") - len(finding.level))
        out.print(f"{_styled(finding.level)}{padding}  {escape(finding.subject)}: {escape(finding.message)}")


def written(files: list[Path]) -> None:
    """``init`` for people: what was written, and what comes next."""
    from rich.markup import escape  # noqa: PLC0415

    out = console()
    for file in files:
        out.print(f"[green]written[/]  {escape(str(file))}  (mode {file.stat().st_mode & 0o777:04o})")
    config = files[0]
    out.print(f"look at the rules in {escape(str(config))}, then:")
    if config.parent == Path("/etc/hivel-agent"):
        out.print("  systemctl enable --now hivel-agent")
    else:
        out.print(f"  hivel-agent run --config {escape(str(config))}")


def outcomes(values: list[Outcome]) -> None:
    """``replay`` for people."""
    from rich.markup import escape  # noqa: PLC0415

    out = console()
    for outcome in values:
        told = (
            "[green]pending again[/]" if outcome.replayed else f"[red]not replayed[/]: {escape(outcome.reason or '')}"
        )
        out.print(f"{outcome.id:>6}  {escape(outcome.deployment_id)}  {told}")
    replayed = sum(outcome.replayed for outcome in values)
    out.print(f"{replayed} of {len(values)} event(s) will be sent again")


def once(report: OnceReport) -> None:
    """``once`` for people."""
    from rich.markup import escape  # noqa: PLC0415

    out = console()
    for poll in report.polls:
        out.print(
            f"jenkins   {escape(poll.controller)}: {poll.jobs} jobs, {poll.moved} moved, {len(poll.enqueued)} events "
            f"enqueued, {len(poll.underivable)} not derivable, {poll.followed} builds still open, "
            f"{poll.requests} request(s)"
        )
        for problem in poll.problems:
            out.print(f"          [red]{escape(problem)}[/]")
    counts = report.counts
    out.print(_delivery(report.delivery))
    out.print(f"events    {counts.pending} pending, {counts.delivered} delivered, {counts.failed} failed")


def preview(value: Preview) -> None:
    """``preview`` for people."""
    from rich.markup import escape  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    out = console()
    table = Table(box=None, header_style="bold")
    for column in ("DEPLOYMENT_ID", "STATUS", "ENVIRONMENT", "REPOSITORY", "BRANCH", "REASON"):
        table.add_column(column, overflow="fold")
    for row in value.rows:
        event = {} if row.derived.event is None else msgspec.json.decode(row.derived.event)
        cells = [event.get(field, "-") for field in ("status", "environment", "repo_url", "branch")]
        table.add_row(*map(escape, [row.derived.deployment_id, *cells, row.derived.reason or ""]))
    if value.rows:
        out.print(table)
    failing = sum(row.derived.reason is not None for row in value.rows)
    out.print(f"{len(value.rows) - failing} event(s) since {value.since}, {failing} build(s) of which none can be made")
    if value.unmatched:
        out.print(f"{len(value.unmatched)} job(s) match no rule:")
        for name in value.unmatched:
            out.print(f"  {escape(name)}")
    for problem in value.problems:
        out.print(f"[red]{escape(problem)}[/]")


def explanation(value: Explanation) -> None:
    """``explain`` for people."""
    from rich.markup import escape  # noqa: PLC0415

    out = console()
    out.print(f"{escape(value.build)}  {escape(value.verdict)}")
    out.print(f"  rule     {escape(value.rule or 'none matches the job')}")
    out.print(f"  jenkins  {escape(value.jenkins)}")
    for derived in value.derived:
        out.print(f"  event    {escape(derived.deployment_id)}")
        event = {} if derived.event is None else msgspec.json.decode(derived.event)
        if derived.reason:
            out.print(f"           [red]{escape(derived.reason)}[/]")
        for name in dict.fromkeys([*event, *derived.origins]):
            text = escape(str(event.get(name, "-")))
            origin = escape(derived.origins.get(name, ""))
            out.print(f"    {name:<14} {text}" + (f"   [dim]({origin})[/]" if origin else ""))
    for stored in value.outbox:
        reason = f": {escape(stored.reason)}" if stored.reason else ""
        out.print(
            f"  outbox   {escape(stored.deployment_id)}: {_styled(stored.state)}, enqueued {stored.enqueued_at}, "
            f"tried {stored.attempts} time(s){reason}"
        )
    if not value.outbox:
        out.print("  outbox   does not know it")


@contextmanager
def progress(*, hidden: bool) -> Iterator[Callable[[int, int, str], None]]:
    """A progress bar on standard error, where that is a terminal; call it with done, total and the job's name."""
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import Progress  # noqa: PLC0415

    with Progress(console=Console(stderr=True), disable=hidden or not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task("reading", total=None)

        def update(done: int, total: int, job: str) -> None:
            bar.update(task, completed=done, total=total, description=job or "done")

        yield update


def backfill(report: BackfillReport, *, dry_run: bool) -> None:
    """``backfill`` for people."""
    from rich.markup import escape  # noqa: PLC0415

    out = console()
    if dry_run:
        for name in report.enqueued:
            out.print(f"would report  {escape(name)}")
    for name, reason in report.underivable.items():
        out.print(f"[red]no event for[/]  {escape(name)}: {escape(reason)}")
    for problem in report.problems:
        out.print(f"[red]{escape(problem)}[/]")
    before = f" ({report.jobs_done_before} of them done before)" if report.jobs_done_before else ""
    out.print(
        f"{report.jobs} job(s){before}, {report.builds} build(s) read: {len(report.enqueued)} event(s) "
        f"{'would be reported' if dry_run else 'enqueued'}, {report.known} known already, "
        f"{len(report.underivable)} without an event"
    )
    if report.problems and not dry_run:
        out.print("not complete: the same command goes on where it was")
