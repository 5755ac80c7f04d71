"""The monitoring listener: ``/metrics`` (Prometheus), ``/jenkins``, ``/healthz`` and ``/readyz`` (JSON)."""

from __future__ import annotations

import asyncio
from itertools import accumulate
from typing import TYPE_CHECKING

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    SummaryMetricFamily,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from agent import __version__
from agent.config.sizes import describe_size
from agent.daemon import logs
from agent.daemon.handover import NobodyThereError
from agent.inspect.asked import PAGE
from agent.notify.notifier import RESULTS
from agent.outbox.values import OutboxError
from agent.sources.jenkins.traffic import BUCKETS_S

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from prometheus_client.core import Metric
    from starlette.requests import Request

    from agent.daemon.fleet import FleetWork
    from agent.daemon.life import Life
    from agent.daemon.polling import PollRecord
    from agent.daemon.stored import Stored

# Time limit for the current life and for the outbox; after it the answer says what is missing.
PATIENCE_S = 5.0


class Check(msgspec.Struct, frozen=True):
    """One condition of readiness; ``reason`` says what is wrong."""

    name: str
    ok: bool
    reason: str | None = None


class Readiness(msgspec.Struct, frozen=True):
    """``/readyz``: 200 when ``ready``, else 503."""

    ready: bool
    checks: list[Check]


# ---- readiness


def readiness(life: Life, stored: Stored | OutboxError) -> Readiness:
    """Checks that events can be stored, each Jenkins was polled recently, delivery is not paused, and no work fails."""
    trouble, errors = life.work.storing.reason, {}
    if isinstance(stored, OutboxError):
        trouble = str(stored)
    else:
        errors = {state.name: state.last_error for state in stored.controllers}
        trouble = trouble or _full(stored.size, life.settings.max_size_bytes)
    breaker = life.parts.dispatcher.breaker
    checks = [
        Check("outbox", trouble is None, trouble),
        Check("delivery", breaker.state != "paused", breaker.reason if breaker.state != "open" else None),
    ]
    for name, record in _records(life).items():
        age_s = _poll_age_s(life, record)
        late = f"no successful poll for {age_s:.0f} s" if age_s > record.ready_within_s else None
        reason = ": ".join(filter(None, (late, errors.get(name)))) or None
        checks.append(Check(f"jenkins {name}", late is None, reason))
    # The agent works without a log, so a problem with the log does not make it unready.
    checks.append(Check("log", ok=True, reason=logs.state().reason))
    checks += [Check(f"work: {work}", ok=False, reason=reason) for work, reason in life.unexpected.reasons.items()]
    return Readiness(all(check.ok for check in checks), checks)


def _full(size: int, most: int) -> str | None:
    if not most or size < most:
        return None
    return (
        f"the outbox is full ({describe_size(size)} of at most {describe_size(most)}): nothing new is stored until "
        "events are delivered and deleted; raise [outbox] max_size"
    )


def _records(life: Life) -> dict[str, PollRecord]:
    return {polls.name: polls.record for polls in life.polls}


def _poll_age_s(life: Life, record: PollRecord) -> float:
    last = record.started_at if record.finished_at is None else record.finished_at
    return life.clock.monotonic() - last


# ---- metrics


class _Collector:
    """Metrics from the outbox, read for this answer, and from the counters of the daemon."""

    def __init__(self, life: Life, stored: Stored) -> None:
        self._life = life
        self._stored = stored

    def collect(self) -> Iterator[Metric]:
        life, stored = self._life, self._stored
        yield InfoMetricFamily("hivel_agent_build", "The version of the agent.", value={"version": __version__})
        yield from _events(life, stored)
        yield from _delivery(life)
        yield from _polls(life, stored)
        if life.fleet is not None:
            yield from _fleet(life.fleet)
        yield _silent(life)
        errors = CounterMetricFamily(
            "hivel_agent_unexpected_errors",
            "Runs that ended because of a bug in the agent, by the name of the work.",
            labels=["where"],
        )
        for where, count in sorted(life.unexpected.counts.items()):
            errors.add_metric([where], count)
        yield errors
        yield _notifications(life)
        yield from _webhooks(life)
        yield from _gap_repair(life, stored)
        yield CounterMetricFamily(
            "hivel_agent_log_lines_lost", "Log lines that could not be written.", value=logs.state().lost
        )


def _events(life: Life, stored: Stored) -> Iterator[Metric]:
    events = GaugeMetricFamily("hivel_agent_events", "Events in the outbox, by state.", labels=["state"])
    for state, count in msgspec.structs.asdict(stored.counts).items():
        events.add_metric([state], count)
    yield events
    oldest = stored.oldest_pending
    yield GaugeMetricFamily(
        "hivel_agent_oldest_pending_age_seconds",
        "Age of the oldest pending event; 0 without one.",
        value=0 if oldest is None else max(0, life.clock.now_ms() - oldest) / 1000,
    )
    yield GaugeMetricFamily(
        "hivel_agent_outbox_writable",
        "1 if the last write to the outbox succeeded.",
        value=float(life.work.storing.reason is None),
    )


def _delivery(life: Life) -> Iterator[Metric]:
    tally, breaker = life.parts.dispatcher.tally, life.parts.dispatcher.breaker
    yield CounterMetricFamily("hivel_agent_delivered", "Events that Hivel accepted.", value=tally.delivered)
    yield CounterMetricFamily("hivel_agent_failed", "Events that failed and need a person.", value=tally.failed)
    retries = CounterMetricFamily(
        "hivel_agent_retries", "Attempts after which the event is retried, by reason.", labels=["reason"]
    )
    for reason, count in sorted(tally.retries.items()):
        retries.add_metric([reason], count)
    yield retries
    yield _flag(
        "hivel_agent_delivery_paused",
        "1 while delivery is paused because of a wrong token, address or certificate.",
        on=breaker.state == "paused",
    )
    yield _flag("hivel_agent_delivery_outage", "1 while Hivel cannot be reached.", on=breaker.state == "outage")


def _flag(name: str, documentation: str, *, on: bool) -> Metric:
    return GaugeMetricFamily(name, documentation, value=float(on))


def _polls(life: Life, stored: Stored) -> Iterator[Metric]:
    durations = SummaryMetricFamily("hivel_agent_poll_duration_seconds", "Duration of polls.", labels=["controller"])
    ages = GaugeMetricFamily(
        "hivel_agent_poll_age_seconds", "Time since the last successful poll of this controller.", labels=["controller"]
    )
    known = _records(life)
    for name, record in known.items():
        durations.add_metric([name], count_value=record.polls, sum_value=record.seconds)
        ages.add_metric([name], _poll_age_s(life, record))
    yield durations
    yield ages
    yield from _asked(life)
    up = GaugeMetricFamily("hivel_agent_controller_up", "1 if the last poll succeeded.", labels=["controller"])
    for state in stored.controllers:
        if state.name in known:
            up.add_metric([state.name], float(state.state == "ok"))
    yield up
    yield _missed(list(known), stored)


def _fleet(fleet: FleetWork) -> Iterator[Metric]:
    leases = fleet.leases
    living = [each for each in leases.members if each.living]
    yield GaugeMetricFamily("hivel_agent_fleet_agents", "Agents that share the outbox.", value=len(living))
    epochs = GaugeMetricFamily(
        "hivel_agent_lease_epoch",
        "The controllers that this agent polls, with the epochs of their leases.",
        labels=["controller"],
    )
    for name, epoch in sorted(leases.mine.items()):
        epochs.add_metric([name], epoch)
    yield epochs
    yield GaugeMetricFamily(
        "hivel_agent_lease_trust_seconds",
        "How long this agent may still poll without reaching the outbox.",
        value=leases.trust_left_s,
    )


def _asked(life: Life) -> Iterator[Metric]:
    labels = ["controller", "kind"]
    answers = HistogramMetricFamily(
        "hivel_agent_jenkins_answer_seconds", "Time until Jenkins answered a request.", labels=labels
    )
    received = CounterMetricFamily(
        "hivel_agent_jenkins_received_bytes", "Bytes received from Jenkins, headers included.", labels=labels
    )
    intervals = GaugeMetricFamily("hivel_agent_poll_interval_seconds", "Current poll interval.", labels=["controller"])
    for polls in life.polls:
        intervals.add_metric([polls.name], polls.interval_s)
        for kind, tally in polls.traffic.total().items():
            up_to = zip((*BUCKETS_S, "+Inf"), accumulate(tally.buckets), strict=True)
            buckets = [(str(bound), float(count)) for bound, count in up_to]
            answers.add_metric([polls.name, kind], buckets=buckets, sum_value=tally.seconds)
            received.add_metric([polls.name, kind], tally.bytes)
    yield answers
    yield received
    yield intervals


def _missed(controllers: list[str], stored: Stored) -> Metric:
    by_controller = dict.fromkeys(controllers, 0)
    for job in stored.missed:
        if job.controller in by_controller:
            by_controller[job.controller] += job.builds
    missed = CounterMetricFamily(
        "hivel_agent_missed_builds", "Builds that were deleted before the agent could read them.", labels=["controller"]
    )
    for name, builds in by_controller.items():
        missed.add_metric([name], builds)
    return missed


def _silent(life: Life) -> Metric:
    """The last result of the hourly search; a scrape does not search."""
    counts = {(name, still): 0 for name in _records(life) for still in (True, False)}
    for job in life.silent_jobs:
        key = (job.controller, job.still_builds)
        counts[key] = counts.get(key, 0) + 1
    silent = GaugeMetricFamily(
        "hivel_agent_silent_jobs",
        "Jobs that deployed regularly and stopped, by whether they still build.",
        labels=["controller", "builds"],
    )
    for (name, still), count in counts.items():
        silent.add_metric([name, "yes" if still else "no"], count)
    return silent


def _notifications(life: Life) -> Metric:
    notifications = CounterMetricFamily(
        "hivel_agent_notifications", "Attempts to send a notification, by result.", labels=["result"]
    )
    notifier = life.parts.notifier
    for result in RESULTS:
        notifications.add_metric([result], 0 if notifier is None else notifier.counts[result])
    return notifications


def _webhooks(life: Life) -> Iterator[Metric]:
    deliveries = CounterMetricFamily(
        "hivel_agent_webhook_deliveries", "Requests to webhooks, by webhook and answer.", labels=["hook", "status"]
    )
    last = GaugeMetricFamily(
        "hivel_agent_webhook_last_delivery_timestamp_seconds",
        "When the last delivery with a valid signature arrived; 0: none since the start of the agent.",
        labels=["hook"],
    )
    hooks = () if life.settings.webhooks is None else life.settings.webhooks.hooks
    for hook in hooks:
        counts = {status: count for (name, status), count in life.answers.counts.items() if name == hook.name}
        for status in sorted({200, 202, 401} | counts.keys()):
            deliveries.add_metric([hook.name, str(status)], counts.get(status, 0))
        last.add_metric([hook.name], life.answers.last.get(hook.name, 0) / 1000)
    yield deliveries
    yield last


def _gap_repair(life: Life, stored: Stored) -> Iterator[Metric]:
    looks = CounterMetricFamily(
        "hivel_agent_gap_repair_looks", "Looks at a project for missed deployments, by result.",
        labels=["hook", "result"],
    )  # fmt: skip
    found = CounterMetricFamily(
        "hivel_agent_gap_repair_found", "Missed deployments that were found; survives restarts.", labels=["hook"]
    )
    last = GaugeMetricFamily(
        "hivel_agent_gap_repair_last_success_timestamp_seconds",
        "When the project that was not read for the longest time was read; 0: never.",
        labels=["hook"],
    )
    gaps = life.parts.gaps
    for (hook, result), count in sorted({} if gaps is None else gaps.counts.items()):
        looks.add_metric([hook, result], count)
    known = {(each.hook, each.project, each.stream): each for each in stored.gaps}
    read: dict[str, list[int]] = {}
    for subject in () if gaps is None else gaps.subjects:
        look = known.get((subject.hook.name, subject.project, subject.stream))
        read.setdefault(subject.hook.name, []).append(0 if look is None else look.looked_at or 0)
    for hook, times in read.items():
        found.add_metric([hook], sum(each.found for each in stored.gaps if each.hook == hook))
        last.add_metric([hook], min(times) / 1000)
    yield looks
    yield found
    yield last


# ---- the paths


def application(present: Callable[[], Awaitable[Life]]) -> Starlette:
    """The application of the monitoring listener.

    ``present`` returns the current life, or raises :class:`agent.daemon.handover.NobodyThereError`. ``/healthz`` does
    not need it.
    """

    async def metrics(_: Request) -> Response:
        try:
            life = await present()
            stored = await _stored(life)
        except (NobodyThereError, OutboxError) as error:
            return Response(f"{error}\n", 503, media_type="text/plain")
        registry = CollectorRegistry()
        registry.register(_Collector(life, stored))
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    async def jenkins(_: Request) -> Response:
        try:
            life = await present()
        except NobodyThereError as error:
            return Response(f"{error}\n", 503, media_type="text/plain")
        return _json(life.asked(), 200)

    async def healthz(_: Request) -> Response:
        return _json({"alive": True, "version": __version__}, 200)

    async def readyz(_: Request) -> Response:
        try:
            life = await present()
        except NobodyThereError as error:
            ready = Readiness(ready=False, checks=[Check("outbox", ok=False, reason=str(error))])
        else:
            try:
                ready = readiness(life, await _stored(life))
            except OutboxError as error:
                ready = readiness(life, error)
        return _json(ready, 200 if ready.ready else 503)

    pages = {"/metrics": metrics, PAGE: jenkins, "/healthz": healthz, "/readyz": readyz}
    return Starlette(routes=[Route(path, page) for path, page in pages.items()])


async def _stored(life: Life) -> Stored:
    """Read the outbox with a time limit. A read that hangs is not cancelled, because cancelling would not end it."""
    reading = asyncio.ensure_future(life.parts.stored())
    await asyncio.wait({reading}, timeout=PATIENCE_S)
    if not reading.done():
        reading.cancel()
        raise OutboxError(f"the outbox did not answer within {PATIENCE_S:g} s; check its disk")
    return reading.result()


def _json(value: object, status: int) -> Response:
    return Response(msgspec.json.encode(value) + b"\n", status, media_type="application/json")
