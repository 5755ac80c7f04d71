"""Groups failed deployments by their causes. No SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.model.causes import cause_of
from agent.outbox.values import FailedGroup, FailedGroups

if TYPE_CHECKING:
    from collections.abc import Iterable

# The failed deployments that are grouped: the newest ones.
MOST_FAILED = 10_000


def grouped(by_reason: Iterable[tuple[str | None, int, int, int, int]], limit: int) -> FailedGroups:
    """At most ``limit`` groups. ``by_reason``: reason, how many, first and last failure, newest number."""
    groups: dict[str, FailedGroup] = {}
    for reason, n, first, last, newest in by_reason:
        group = FailedGroup(cause_of(reason), n, first, last, newest, reason)
        same = groups.get(group.cause)
        groups[group.cause] = group if same is None else _together(group, same)
    largest = sorted(groups.values(), key=lambda each: (-each.n, each.cause))
    failed = sum(each.n for each in largest)
    return FailedGroups(largest[:limit], failed, more=len(largest) > limit or failed > MOST_FAILED)


def _together(one: FailedGroup, other: FailedGroup) -> FailedGroup:
    newest = max(one, other, key=lambda each: each.newest)
    times = min(one.first_at, other.first_at), max(one.last_at, other.last_at)
    return FailedGroup(one.cause, one.n + other.n, *times, newest.newest, newest.reason)
