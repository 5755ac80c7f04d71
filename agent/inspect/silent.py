"""Silent jobs: those that used to deploy, and from which nothing has come for much longer than usual.

The reason may be outside (nobody deploys any more), or a rule that no longer fits: then the job goes on building, and
no build becomes an event. Nothing else tells, for no event fails and no poll goes wrong.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import msgspec

from agent.config.rules import first_match
from agent.model.keys import JENKINS
from agent.model.times import rfc3339

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.config.settings import Settings
    from agent.outbox.interface import Outbox
    from agent.outbox.values import LastDeployments

# Silent is what is silent for so many times its usual pause.
TIMES_USUAL = 4
# Nine of ten pauses were not longer: a weekend, or the time between two releases of several builds each.
USUAL = 0.9
# A job that is silent for longer than this, and than it had to be, is retired: nobody needs to be told again.
RETIRED_MS = 90 * 86_400_000


class SilentJob(msgspec.Struct, frozen=True):
    """A job in ``status --json``; times are RFC 3339, durations milliseconds.

    ``controller``: of other systems the scope. ``usual_pause_ms``: nine of ten pauses between its deployments were not
    longer. ``builds_since``: how many builds it had since its last deployment, none of which became an event; None
    where nobody knows. ``has_rule``: whether a rule matches it now.
    """

    controller: str
    job: str
    last_deployment_at: str
    silent_ms: int
    usual_pause_ms: int
    builds_since: int | None
    has_rule: bool

    @property
    def still_builds(self) -> bool:
        """Whether it goes on building, and only no events come of it."""
        return bool(self.builds_since)


def silent_jobs(settings: Settings, outbox: Outbox) -> list[SilentJob]:
    """The silent jobs, those that still build first. It reads the index of all deployments: not for every scrape."""
    if not settings.silent_after_ms:
        return []
    now = outbox.clock.now_ms()
    quiet = outbox.quiet_since(now - settings.silent_after_ms, least=settings.silent_least)
    followed = [each for each in quiet if not settings.roots_elsewhere(each.project.scope, each.project.name)]
    found = [_silent_job(settings, outbox, each, now) for each in followed if is_silent(each.ends, now, settings)]
    return sorted(found, key=lambda job: (not job.still_builds, job.controller, job.job))


def is_silent(ends: Sequence[int], now: int, settings: Settings) -> bool:
    """Whether deployments that ended then (UTC ms, ascending) make a job silent by now, and not retired."""
    if len(ends) < settings.silent_least:
        return False
    pause = max(settings.silent_after_ms, TIMES_USUAL * usual_pause(ends))
    return pause < now - ends[-1] <= pause + RETIRED_MS


def usual_pause(ends: Sequence[int]) -> int:
    """Nine of ten pauses between these moments were not longer; 0 for less than two."""
    pauses = sorted(later - earlier for earlier, later in pairwise(ends))
    return pauses[math.ceil(USUAL * len(pauses)) - 1] if pauses else 0


def _silent_job(settings: Settings, outbox: Outbox, last: LastDeployments, now: int) -> SilentJob:
    project = last.project
    return SilentJob(
        controller=project.scope,
        job=project.name,
        last_deployment_at=rfc3339(last.ends[-1]),
        silent_ms=now - last.ends[-1],
        usual_pause_ms=usual_pause(last.ends),
        builds_since=_builds_since(outbox, last),
        has_rule=first_match(settings.rules, project.name) is not None,
    )


def _builds_since(outbox: Outbox, last: LastDeployments) -> int | None:
    """By the cursor: a job that is created again starts at 1 again."""
    project = last.project
    cursor = outbox.job(project.scope, project.name) if project.provider == JENKINS else None
    if cursor is None:
        return None
    newest, deployed = cursor.next_build_number - 1, int(last.newest_run)
    if newest >= deployed:
        return newest - deployed
    return newest if (cursor.newest_started_at or 0) > last.newest_started_at else 0
