"""The JSON of a notification. docs/monitoring.md documents it; ``version`` changes when a field changes its meaning."""

from __future__ import annotations

import socket

import msgspec

from agent import __version__
from agent.model.secrets import redact
from agent.model.times import describe_duration, rfc3339
from agent.notify.conditions import Condition, Kind, Reason
from agent.notify.memory import Notification, Phase

VERSION = 1
_OVER = {
    Kind.DELIVERY_PAUSED: "Delivery to Hivel works again",
    Kind.EVENTS_FAILED: "There are no more failed events",
    Kind.CONTROLLER_DOWN: "Jenkins controller {controller} can be read again, or was removed from the configuration",
    Kind.OUTBOX_UNWRITABLE: "The outbox can be written again",
}


class Message(msgspec.Struct, frozen=True):
    """The message. Times are RFC 3339. ``id`` is the same for all notifications of one condition until it ends."""

    version: int
    id: str
    state: Phase
    kind: Kind
    controller: str | None
    summary: str
    text: str
    since: str
    until: str | None
    count: int
    reasons: list[Reason]
    host: str
    agent_version: str


def message(notification: Notification, now: int) -> Message:
    """The message of a notification. ``text`` is a summary in one line, for a chat or the subject of a mail."""
    condition, host = notification.condition, socket.gethostname()
    since = min(condition.since, now)
    summary = redact(_summary(notification, since, now))
    return Message(
        version=VERSION,
        id=f"{condition.key}/{rfc3339(since)}",
        state=notification.phase,
        kind=condition.kind,
        controller=condition.controller,
        summary=summary,
        text=f"[{notification.phase}] {summary} (hivel-agent on {host})",
        since=rfc3339(since),
        until=None if notification.until is None else rfc3339(notification.until),
        count=condition.count,
        reasons=list(condition.reasons),
        host=host,
        agent_version=__version__,
    )


def encode(value: Message) -> bytes:
    """The message as JSON with a line end."""
    return msgspec.json.encode(value) + b"\n"


def for_a_test(now: int) -> Message:
    """The message that ``hivel-agent notify test`` sends."""
    problem = "This is a test notification from `hivel-agent notify test`"
    return message(Notification(Phase.NOTICE, Condition(kind=Kind.TEST, problem=problem, since=now)), now)


def _summary(notification: Notification, since: int, now: int) -> str:
    condition = notification.condition
    if notification.until is not None:
        lasted = describe_duration(notification.until - since)
        over = _OVER.get(condition.kind, "The problem is over").format(controller=condition.controller)
        return f"{over}. It lasted for {lasted}. The problem was: {condition.problem}."
    match condition.kind:
        case Kind.BUILDS_MISSED:
            return f"{condition.count} {condition.problem}."
        case Kind.DELIVERY_PAUSED:
            lasted = describe_duration(now - since)
            return f"{condition.problem}. Pending events: {condition.count}. It has lasted for {lasted}."
        case Kind.CONTROLLER_DOWN | Kind.OUTBOX_UNWRITABLE:
            return f"{condition.problem}. It has lasted for {describe_duration(now - since)}."
        case _:
            return f"{condition.problem}."
