"""How the agent is, for machines: ``/metrics`` (Prometheus), ``/healthz`` and ``/readyz`` (JSON)."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Protocol

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, SummaryMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from agent import __version__
from agent.outbox.cursors import controller_states, missed_builds
from agent.outbox.sqlite.connection import in_words
from agent.outbox.sqlite.store import State

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prometheus_client.core import Metric
    from starlette.requests import Request

    from agent.daemon.polling import PollRecord, Polls
    from agent.delivery.dispatcher import Drain
    from agent.model.times import Clock
    from agent.model.trouble import Trouble
    from agent.outbox.sqlite.store import Outbox


class Check(msgspec.Struct, frozen=True):
    """One thing that has to be right for the agent to do its work; ``reason`` says in words what is wrong."""

    name: str
    ok: bool
    reason: str | None = None


class Readiness(msgspec.Struct, frozen=True):
    """``/readyz``: 200 when ``ready``, else 503."""

    ready: bool
    checks: list[Check]


class Source(Protocol):
    """What monitoring reads of the daemon."""

    outbox: Outbox
    drain: Drain
    polls: Sequence[Polls]
    clock: Clock

    @property
    def storing(self) -> Trouble:
        """Whether the outbox can be written."""


def _records(source: Source) -> dict[str, PollRecord]:
    return {polls.name: polls.record for polls in source.polls}


def readiness(source: Source) -> Readiness:
    """Can events be stored, was every Jenkins read lately, may events go to Hivel?"""
    gate = source.drain.gate
    paused = gate.state == "paused"
    trouble = source.storing.reason
    try:
        states = {state.name: state for state in controller_states(source.outbox)}
    except sqlite3.Error as error:
        states, trouble = {}, str(in_words(error, source.outbox.path))
    checks = [
        Check("outbox", trouble is None, trouble),
        Check("delivery", not paused, gate.reason if gate.state != "open" else None),
    ]
    for name, record in _records(source).items():
        last = record.started_at if record.finished_at is None else record.finished_at
        age_s = source.clock.monotonic() - last
        problem = states[name].last_error if name in states else None
        late = f"no poll went through for {age_s:.0f} s" if age_s > record.ready_within_s else None
        reason = ": ".join(filter(None, (late, problem))) or None
        checks.append(Check(f"jenkins {name}", late is None, reason))
    return Readiness(all(check.ok for check in checks), checks)


class _Collector:
    """Reads the outbox when somebody asks; what is counted along the way is in the daemon."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("hivel_agent_build", "The version of the agent.", value={"version": __version__})
        yield from _events(self._source)
        yield from _delivery(self._source)
        yield from _polls(self._source)


def _events(source: Source) -> Iterator[Metric]:
    counts = source.outbox.counts()
    events = GaugeMetricFamily("hivel_agent_events", "Events in the outbox, by state.", labels=["state"])
    for state in State:
        events.add_metric([state.value], getattr(counts, state.value))
    yield events
    oldest = source.outbox.oldest_pending()
    yield GaugeMetricFamily(
        "hivel_agent_oldest_pending_age_seconds",
        "How long the oldest pending event waits; 0 when none does.",
        value=0 if oldest is None else max(0, source.clock.now_ms() - oldest) / 1000,
    )
    yield GaugeMetricFamily(
        "hivel_agent_outbox_writable",
        "1 when the last attempt to store something worked.",
        value=float(source.storing.reason is None),
    )


def _delivery(source: Source) -> Iterator[Metric]:
    tally, gate = source.drain.tally, source.drain.gate
    yield CounterMetricFamily("hivel_agent_delivered", "Events that Hivel accepted.", value=tally.delivered)
    yield CounterMetricFamily("hivel_agent_failed", "Events that need a person.", value=tally.failed)
    retries = CounterMetricFamily(
        "hivel_agent_retries", "Attempts after which an event stays pending, by what came.", labels=["reason"]
    )
    for reason, count in sorted(tally.retries.items()):
        retries.add_metric([reason], count)
    yield retries
    yield _flag("hivel_agent_delivery_paused", "1 while a wrong configuration keeps events.", on=gate.state == "paused")
    yield _flag("hivel_agent_delivery_outage", "1 while Hivel cannot be reached.", on=gate.state == "outage")


def _flag(name: str, documentation: str, *, on: bool) -> Metric:
    return GaugeMetricFamily(name, documentation, value=float(on))


def _polls(source: Source) -> Iterator[Metric]:
    durations = SummaryMetricFamily("hivel_agent_poll_duration_seconds", "How long polls took.", labels=["controller"])
    ages = GaugeMetricFamily(
        "hivel_agent_poll_age_seconds", "Since when no poll of this controller went through.", labels=["controller"]
    )
    for name, record in _records(source).items():
        durations.add_metric([name], count_value=record.polls, sum_value=record.seconds)
        last = record.started_at if record.finished_at is None else record.finished_at
        ages.add_metric([name], source.clock.monotonic() - last)
    yield durations
    yield ages
    up = GaugeMetricFamily("hivel_agent_controller_up", "1 when the last poll worked.", labels=["controller"])
    known = _records(source)
    for state in controller_states(source.outbox):
        if state.name in known:
            up.add_metric([state.name], float(state.state == "ok"))
    yield up
    yield _missed(source)


def _missed(source: Source) -> Metric:
    by_controller = dict.fromkeys(_records(source), 0)
    for job in missed_builds(source.outbox):
        if job.controller in by_controller:
            by_controller[job.controller] += job.builds
    missed = CounterMetricFamily(
        "hivel_agent_missed_builds", "Builds that were gone before they could be read.", labels=["controller"]
    )
    for name, builds in by_controller.items():
        missed.add_metric([name], builds)
    return missed


def application(source: Source) -> Starlette:
    """The pages of the monitoring listener."""
    registry = CollectorRegistry()
    registry.register(_Collector(source))

    async def metrics(_: Request) -> Response:
        try:
            return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
        except sqlite3.Error as error:
            return Response(f"{in_words(error, source.outbox.path)}\n", 503, media_type="text/plain")

    async def healthz(_: Request) -> Response:
        return _json({"alive": True, "version": __version__}, 200)

    async def readyz(_: Request) -> Response:
        ready = readiness(source)
        return _json(ready, 200 if ready.ready else 503)

    pages = {"/metrics": metrics, "/healthz": healthz, "/readyz": readyz}
    return Starlette(routes=[Route(path, page) for path, page in pages.items()])


def _json(value: object, status: int) -> Response:
    return Response(msgspec.json.encode(value) + b"\n", status, media_type="application/json")
