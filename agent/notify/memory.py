"""Decides which notifications are due: a state machine without I/O. The caller passes the time and stores the memory.

:func:`observe` records the conditions that hold now, :func:`due` lists the notifications to send, and :func:`sent`
records one that was accepted. A notification that was not accepted stays due and is later sent with the values of that
moment. There is no queue: for each condition, at most one notification is due.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from agent.notify.conditions import Condition, Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.config.settings import NotifySettings

# A new memory does not report notices that are older than this.
_FRESH_MS = 86_400_000


class Phase(enum.StrEnum):
    """The state of a condition in a notification."""

    FIRING = "firing"
    RESOLVED = "resolved"
    NOTICE = "notice"


class Episode(msgspec.Struct, frozen=True):
    """A lasting condition from its first observation until its end is reported.

    ``began``: first observed. ``gone``: when it was first observed to be over. ``reported``: last reported as firing.
    ``ripe``: it lasted long enough to be reported, even if it is over by now. Times are UTC ms.
    """

    condition: Condition
    began: int
    ripe: bool = False
    gone: int | None = None
    reported: int | None = None


class Noticed(msgspec.Struct, frozen=True):
    """The notices of one kind: reported up to ``mark``, last ``at`` (UTC ms). ``waiting``: the one to report next."""

    mark: int
    at: int | None = None
    waiting: Condition | None = None


class Memory(msgspec.Struct, frozen=True):
    """What was observed, by the key of the condition. ``noticed`` None: nothing was ever observed."""

    episodes: dict[str, Episode] = {}
    noticed: dict[str, Noticed] | None = None


class Notification(msgspec.Struct, frozen=True):
    """A notification to send. ``until``: when a resolved condition ended (UTC ms)."""

    phase: Phase
    condition: Condition
    until: int | None = None

    @property
    def key(self) -> str:
        """The key of its condition."""
        return self.condition.key


def observe(
    memory: Memory, conditions: Sequence[Condition], now: int, settings: NotifySettings, *, complete: bool = True
) -> Memory:
    """Record the conditions that hold now. Not ``complete``: other conditions are unknown and keep their state."""
    memory = _not_from_the_future(memory, now)
    holding = {each.key: each for each in conditions if each.kind.lasts}
    episodes = {
        key: _holds(memory.episodes.get(key), condition, now, settings.after_ms) for key, condition in holding.items()
    }
    for key, episode in memory.episodes.items():
        if key in holding:
            continue
        if not complete:
            episodes[key] = episode
        elif episode.ripe:
            episodes[key] = episode if episode.gone is not None else replace(episode, gone=now)
    notices = [each for each in conditions if not each.kind.lasts]
    return Memory(episodes, _with_notices(memory.noticed, notices, now) if complete else memory.noticed)


def due(memory: Memory, now: int, settings: NotifySettings) -> list[Notification]:
    """The notifications to send now."""
    found = []
    for episode in memory.episodes.values():
        if episode.gone is not None:
            if now - episode.gone >= settings.after_ms:
                found.append(Notification(Phase.RESOLVED, episode.condition, episode.gone))
        elif episode.ripe and (episode.reported is None or 0 < settings.repeat_ms <= now - episode.reported):
            found.append(Notification(Phase.FIRING, episode.condition))
    for noticed in (memory.noticed or {}).values():
        new = noticed.waiting
        if new is not None and (noticed.at is None or now - noticed.at >= settings.after_ms):
            news = replace(new, count=new.mark - noticed.mark) if new.kind is Kind.BUILDS_MISSED else new
            found.append(Notification(Phase.NOTICE, news))
    return found


def sent(memory: Memory, notification: Notification, now: int) -> Memory:
    """Record that the notification was accepted."""
    key, episodes, noticed = notification.key, dict(memory.episodes), dict(memory.noticed or {})
    match notification.phase:
        case Phase.RESOLVED:
            episodes.pop(key, None)
        case Phase.FIRING:
            episodes[key] = replace(episodes[key], reported=now)
        case Phase.NOTICE:
            noticed[key] = Noticed(notification.condition.mark, now)
    return Memory(episodes, memory.noticed if memory.noticed is None else noticed)


def _holds(episode: Episode | None, condition: Condition, now: int, after_ms: int) -> Episode:
    if episode is None:
        episode = Episode(condition, now)
    since = min(condition.since, episode.condition.since, now)
    ripe = episode.ripe or condition.kind.at_once or now - episode.began >= after_ms
    return replace(episode, condition=replace(condition, since=since), ripe=ripe, gone=None)


def _with_notices(before: dict[str, Noticed] | None, notices: list[Condition], now: int) -> dict[str, Noticed]:
    after = {}
    for notice in notices:
        known = (before or {}).get(notice.key)
        if known is None:
            old = before is None and now - notice.since > _FRESH_MS
            known = Noticed(notice.mark if old else 0)
        mark = min(known.mark, notice.mark)
        after[notice.key] = replace(known, mark=mark, waiting=notice if notice.mark > mark else None)
    return after


def _not_from_the_future(memory: Memory, now: int) -> Memory:
    """Replace times in the future, which occur if the clock was set back. Nothing would happen until then otherwise."""
    episodes = {
        key: replace(
            each,
            began=min(each.began, now),
            gone=None if each.gone is None else min(each.gone, now),
            reported=None if each.reported is None else min(each.reported, now),
        )
        for key, each in memory.episodes.items()
    }
    noticed = memory.noticed and {
        key: replace(each, at=None if each.at is None else min(each.at, now)) for key, each in memory.noticed.items()
    }
    return Memory(episodes, noticed)
