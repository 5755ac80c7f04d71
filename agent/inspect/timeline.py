"""The way of a deployment from its build to Hivel, step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from agent.inspect.facts import in_words
from agent.model.deployment import State

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.inspect.queue import DetailView, EventView

_SETTLED = {State.DELIVERED: "delivered", State.FAILED: "failed", State.DISCARDED: "discarded"}


class StepView(msgspec.Struct, frozen=True):
    """One step: when (RFC 3339), what happened, and the details."""

    at: str
    what: str
    details: str = ""


def timeline(detail: DetailView, build_ended_at: str | None) -> list[StepView]:
    """All steps in the order of their times. Times of the build and of facts are by the controller's clock."""
    return sorted(_steps(detail, build_ended_at), key=lambda step: step.at)


def _steps(detail: DetailView, build_ended_at: str | None) -> Iterator[StepView]:
    deployment = detail.event
    if deployment.build_started_at is not None:
        yield StepView(deployment.build_started_at, "build started")
    if build_ended_at is not None:
        yield StepView(build_ended_at, "build ended")
    for fact in detail.facts:
        yield StepView(fact.received_at, f"found by {fact.source}", in_words(fact))
    yield StepView(deployment.created_at, "enqueued")
    for attempt in detail.attempts:
        status = "no answer" if attempt.http_status is None else f"HTTP {attempt.http_status}"
        yield StepView(attempt.at, f"attempt {attempt.n}", f"{status}, {attempt.verdict}, {attempt.duration_ms} ms")
    for action in detail.actions:
        by = f"by {action.who}"
        yield StepView(action.at, action.what, f"{by}: {action.reason}" if action.reason else by)
    yield from _outcome(deployment)


def _outcome(deployment: EventView) -> Iterator[StepView]:
    if deployment.settled_at is not None and deployment.state in _SETTLED:
        yield StepView(deployment.settled_at, _SETTLED[deployment.state], deployment.reason or "")
    if deployment.held_until is not None:
        yield StepView(deployment.held_until, "will be sent unconfirmed if it is not confirmed before")
    if deployment.next_attempt_at is not None:
        yield StepView(deployment.next_attempt_at, "next attempt", deployment.reason or "")
