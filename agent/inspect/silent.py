"""Silent jobs: jobs that used to deploy, and have had no deployment for much longer than usual.

Either nobody deploys any more, or a rule no longer matches: then the job still builds, but no build becomes an event.
No event and no poll fails in this case, so nothing else shows it.
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

# A job is silent after this multiple of its usual pause.
TIMES_USUAL = 4
# The quantile of the pauses that is the usual one: a weekend, or the time between releases with several builds each.
USUAL = 0.9
# A job that is silent for longer than this is retired, and no longer listed.
RETIRED_MS = 90 * 86_400_000


class SilentJob(msgspec.Struct, frozen=True):
    """A job in ``status --json``. Times are RFC 3339, durations are milliseconds.

    ``controller``: for other CI systems, the scope. ``usual_pause_ms``: 90 % of the pauses between its deployments were
    not longer. ``builds_since``: the number of builds since its last deployment; None if it is not known. ``has_rule``:
    whether a rule matches the job now.
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
        """Whether the job still builds, but gives no events."""
        return bool(self.builds_since)


def silent_jobs(settings: Settings, outbox: Outbox) -> list[SilentJob]:
    """The silent jobs, those that still build first. Reads the index of all deployments: too slow for every scrape."""
    if not settings.silent_after_ms:
        return []
    now = outbox.clock.now_ms()
    quiet = outbox.quiet_since(now - settings.silent_after_ms, least=settings.silent_least)
    followed = [each for each in quiet if not settings.roots_elsewhere(each.project.scope, each.project.name)]
    found = [_silent_job(settings, outbox, each, now) for each in followed if is_silent(each.ends, now, settings)]
    return sorted(found, key=lambda job: (not job.still_builds, job.controller, job.job))


def is_silent(ends: Sequence[int], now: int, settings: Settings) -> bool:
    """Whether a job with these ends of deployments (UTC ms, ascending) is silent, and not retired."""
    if len(ends) < settings.silent_least:
        return False
    pause = max(settings.silent_after_ms, TIMES_USUAL * usual_pause(ends))
    return pause < now - ends[-1] <= pause + RETIRED_MS


def usual_pause(ends: Sequence[int]) -> int:
    """The 90th percentile of the pauses between these moments; 0 for fewer than two moments."""
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
    """The builds since a number, by the cursor. A job that is created again starts at 1 again."""
    project = last.project
    cursor = outbox.job(project.scope, project.name) if project.provider == JENKINS else None
    if cursor is None:
        return None
    newest, deployed = cursor.next_build_number - 1, int(last.newest_run)
    if newest >= deployed:
        return newest - deployed
    return newest if (cursor.newest_started_at or 0) > last.newest_started_at else 0
