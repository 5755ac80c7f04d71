"""The conditions that are worth a notification, read from the outbox and the daemon's state."""

from __future__ import annotations

import enum
from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from agent.model.deployment import State
from agent.model.secrets import redact
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.outbox.values import Filter, Page

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from agent.outbox.interface import Outbox
    from agent.outbox.values import ControllerState, LastRepair, Missed

# How many of the newest failed events are read, how many reasons are listed, and the maximum length of each.
_MOST_LOOKED_AT = 200
_MOST_REASONS = 5
_LONGEST_REASON = 300


class Kind(enum.StrEnum):
    """What a notification is about."""

    DELIVERY_PAUSED = "delivery_paused"
    EVENTS_FAILED = "events_failed"
    CONTROLLER_DOWN = "controller_down"
    OUTBOX_UNWRITABLE = "outbox_unwritable"
    BUILDS_MISSED = "builds_missed"
    OUTBOX_REPLACED = "outbox_replaced"
    TEST = "test"

    @property
    def lasts(self) -> bool:
        """Whether it has an end. The others are notices, which are reported once."""
        return self not in (Kind.BUILDS_MISSED, Kind.OUTBOX_REPLACED, Kind.TEST)

    @property
    def at_once(self) -> bool:
        """Whether it is reported at once, not only after it has lasted for ``after``."""
        return self is Kind.EVENTS_FAILED or not self.lasts


class Reason(msgspec.Struct, frozen=True):
    """Why events failed, and how many of them."""

    reason: str
    count: int


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """A condition that holds now, or a notice.

    ``problem``: a sentence without a full stop: ``Delivery to Hivel is paused: wrong token``. ``since``: UTC ms.
    ``mark`` of a notice grows when there is something new to report.
    """

    kind: Kind
    problem: str
    since: int
    controller: str | None = None
    count: int = 1
    reasons: tuple[Reason, ...] = ()
    mark: int = 0

    @property
    def key(self) -> str:
        """Identifies a condition over time."""
        return f"{self.kind}/{self.controller or ''}"


def read(outbox: Outbox, controllers: Collection[str]) -> list[Condition]:
    """The conditions that the outbox shows. Raises :class:`agent.outbox.values.OutboxError`."""
    return [
        *_paused(outbox),
        *_failed(outbox),
        *(_down(state) for state in outbox.controllers() if state.name in controllers and state.state != "ok"),
        *_missed(outbox.missed()),
        *_replaced(outbox.last_repair() if isinstance(outbox, SqliteOutbox) else None),
    ]


def unwritable(reason: str, now: int) -> Condition:
    """The condition that nothing can be stored."""
    return Condition(kind=Kind.OUTBOX_UNWRITABLE, problem=f"The outbox cannot be written: {_cut(reason)}", since=now)


def _paused(outbox: Outbox) -> Iterator[Condition]:
    state = outbox.delivery_state()
    if state is not None and state.state != "open":
        waiting = outbox.counts().pending
        words = "Hivel cannot be reached" if state.state == "outage" else "Delivery to Hivel is paused"
        reason = f": {_cut(state.reason)}" if state.reason else ""
        yield Condition(kind=Kind.DELIVERY_PAUSED, problem=words + reason, since=state.since, count=waiting)


def newest_reasons(outbox: Outbox) -> list[str]:
    """The reasons of the newest failed events, one for each event. Raises :class:`agent.outbox.values.OutboxError`."""
    newest = outbox.query(Filter(states=(State.FAILED,)), Page(_MOST_LOOKED_AT))
    return [each.reason or each.content.problem or "unknown" for each in newest]


def _failed(outbox: Outbox) -> Iterator[Condition]:
    count = outbox.counts().failed
    if not count:
        return
    reasons = Counter(map(_cut, newest_reasons(outbox)))
    most = tuple(Reason(reason, number) for reason, number in reasons.most_common(_MOST_REASONS))
    words = "1 event failed" if count == 1 else f"{count} events failed"
    why = "; ".join(f"{each.count} × {each.reason}" for each in most)
    yield Condition(
        kind=Kind.EVENTS_FAILED,
        problem=f"{words} and will not be sent again until you run `hivel-agent replay`: {why}",
        since=outbox.clock.now_ms(),
        count=count,
        reasons=most,
    )


def _down(state: ControllerState) -> Condition:
    reason = f": {_cut(state.last_error)}" if state.last_error else f" ({state.state})"
    problem = f"Jenkins controller {state.name} cannot be read{reason}"
    return Condition(kind=Kind.CONTROLLER_DOWN, controller=state.name, problem=problem, since=state.since)


def _missed(jobs: list[Missed]) -> Iterator[Condition]:
    by_controller: dict[str, list[Missed]] = {}
    for job in jobs:
        by_controller.setdefault(job.controller, []).append(job)
    for controller, missed in by_controller.items():
        newest = max(missed, key=lambda job: job.noted_at)
        total = sum(job.builds for job in missed)
        problem = (
            f"builds of Jenkins controller {controller} were deleted before the agent read them; the latest is "
            f"{_cut(newest.full_name)} up to #{newest.newest_number}"
        )
        yield Condition(
            kind=Kind.BUILDS_MISSED,
            controller=controller,
            problem=problem,
            since=newest.noted_at,
            count=total,
            mark=total,
        )


def _replaced(repair: LastRepair | None) -> Iterator[Condition]:
    if repair is not None:
        problem = (
            f"The outbox was damaged and was replaced ({_cut(repair.problem)}); {repair.events} events were recovered "
            f"from {repair.moved_to}"
        )
        yield Condition(
            kind=Kind.OUTBOX_REPLACED, problem=problem, since=repair.at, count=repair.events, mark=repair.at
        )


def _cut(text: str) -> str:
    text = redact(" ".join(text.split()))
    return text if len(text) <= _LONGEST_REASON else text[:_LONGEST_REASON] + "…"
