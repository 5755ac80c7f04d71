"""Jobs and builds that cannot be read. Each is retried after its own backoff and does not delay others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from agent.model.secrets import redact
from agent.outbox.values import JobError
from agent.sources.jenkins.backoff import Backoffs
from agent.sources.jenkins.errors import BadAnswerError, JenkinsError, UnreachableError

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from agent.model.times import Clock

log = structlog.get_logger("poller")

# Maximum backoff (seconds) for a build that Jenkins reports as unreadable: requesting it again costs little.
UNREADABLE_BUILD_S = 60.0
# In place of a build number: the job itself. Jenkins' build numbers start at 1.
_JOB = 0

_Key = tuple[str, int]


class Unread:
    """The jobs and builds of one controller that could not be read last time.

    ``stored``: from an earlier process. After a restart everything is retried at once, because the cause may be gone;
    ``since`` is kept.
    """

    def __init__(self, controller: str, interval_s: float, clock: Clock, stored: Mapping[str, JobError]) -> None:
        self._controller = controller
        self._clock = clock
        self._slowly = Backoffs[_Key](interval_s, clock)
        self._soon = Backoffs[_Key](interval_s, clock, longest_s=UNREADABLE_BUILD_S)
        self._failing: dict[str, dict[int, Backoffs[_Key]]] = {}
        self._stored = dict(stored)
        self._changed = set(stored)

    def __len__(self) -> int:
        return len(self._failing)

    def jobs(self) -> set[str]:
        """Jobs that could not be read themselves. Their builds may be readable."""
        return {name for name, failing in self._failing.items() if _JOB in failing}

    def due(self, job: str) -> bool:
        """Whether the job may be requested now."""
        return self._is_due(job, _JOB)

    def builds(self, job: str) -> frozenset[int]:
        """Numbers of the job's builds that could not be read."""
        return frozenset(number for number in self._failing.get(job, ()) if number != _JOB)

    def resting(self, job: str) -> frozenset[int]:
        """Those of them that are in backoff now."""
        return frozenset(number for number in self.builds(job) if not self._is_due(job, number))

    def _is_due(self, job: str, number: int) -> bool:
        backoffs = self._failing.get(job, {}).get(number)
        return backoffs is None or backoffs.due((job, number))

    def failed(self, job: str, error: Exception, number: int = _JOB) -> None:
        """The job, or one of its builds, could not be read."""
        failing = self._failing.setdefault(job, {})
        first = number not in failing
        backoffs = self._soon if number != _JOB and isinstance(error, BadAnswerError) else self._slowly
        failing[number] = backoffs
        retry_after_ms = error.retry_after_ms if isinstance(error, UnreachableError) else None
        reason = in_words(error)
        backoffs.failed((job, number), reason if number == _JOB else f"build {number}: {reason}", retry_after_ms)
        self._changed.add(job)
        if first:
            item = {"job": job} if number == _JOB else {"build": f"{job}#{number}"}
            what = "job cannot be read" if number == _JOB else "build cannot be read"
            trace = None if isinstance(error, JenkinsError) else error
            log.warning(what, controller=self._controller, **item, reason=reason, exc_info=trace)

    def read(self, job: str, besides: Container[int] = ()) -> None:
        """The job was read, and all its builds except ``besides``."""
        failing = self._failing.get(job)
        if failing is None:
            return
        for number in [number for number in failing if number == _JOB or number not in besides]:
            for backoffs in (self._slowly, self._soon):
                backoffs.succeeded((job, number))
            del failing[number]
        if not failing:
            del self._failing[job]
            log.info("job can be read again", controller=self._controller, job=job)
        self._changed.add(job)

    def forget(self, present: Container[str]) -> None:
        """Forget jobs that no longer exist."""
        for job in [job for job in self._failing if job not in present]:
            self.read(job)

    def changes(self) -> dict[str, JobError | None]:
        """The changes that ``status`` has to show; see ``Progress.errors``."""
        errors = {job: self._error(job) for job in self._changed}
        return {job: error for job, error in errors.items() if error is not None or job in self._stored}

    def stored(self, changes: Mapping[str, JobError | None]) -> None:
        """These changes are in the outbox."""
        for job, error in changes.items():
            if error is None:
                self._stored.pop(job, None)
            else:
                self._stored[job] = error
        self._changed.clear()

    def _error(self, job: str) -> JobError | None:
        """The error of the job itself, or of its build with the earliest retry."""
        failing = self._failing.get(job)
        if failing is None:
            return None
        found = [
            each
            for backoffs in (self._slowly, self._soon)
            for each in backoffs.failing()
            if each.key[0] == job and failing.get(each.key[1]) is backoffs
        ]
        shown = min(found, key=lambda each: (each.key[1] != _JOB, each.next_try_at))
        before = self._stored.get(job)
        return JobError(job, shown.reason, before.since if before else self._clock.now_ms(), shown.next_try_at)


def in_words(error: Exception) -> str:
    """A message for people; for an unexpected exception with its type."""
    return str(error) if isinstance(error, JenkinsError) else redact(f"{type(error).__name__}: {error}")
