"""Reading one job: recognises which job it is, and turns its builds into facts."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from agent.model import fact as facts
from agent.model.endings import Ending
from agent.model.keys import jenkins_run
from agent.outbox.values import OpenBuild, OutboxError, Renamed
from agent.sources.jenkins.errors import ControllerDownError, StoppedError
from agent.sources.jenkins.look import STORE_AT, UNREADABLE_MS, first_look, waiting_since
from agent.sources.jenkins.reader import AnotherJobError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from agent.model.fact import Fact
    from agent.model.times import Clock
    from agent.sources.jenkins.details import Details
    from agent.sources.jenkins.look import Candidate, Look
    from agent.sources.jenkins.raw import RawBuild
    from agent.sources.jenkins.reader import FirstAnswer, JobReader
    from agent.sources.jenkins.renames import Renames

# Errors that do not concern a single job or build.
NOT_OF_ONE_JOB = (ControllerDownError, StoppedError, OutboxError)


@dataclass(frozen=True)
class Looked:
    """A job after a look, with what has to be stored."""

    candidate: Candidate
    look: Look
    facts: list[Fact] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The current full name of the job."""
        return self.candidate.job.full_name

    @property
    def renamed(self) -> Renamed | None:
        """Set if the job was known under another name."""
        former = self.candidate.cursor
        return None if former is None or former.full_name == self.name else Renamed(former, self.name)

    @property
    def missed(self) -> int:
        """The number of missed builds."""
        return len(self.look.missed) + self.look.missed_unlisted

    @property
    def newest_missed(self) -> int:
        """The highest number of a missed build, as far as is known."""
        return max(self.look.missed, default=self.candidate.job.next_build_number - 1)

    @property
    def begun(self) -> bool:
        """Whether this is a new job with the name of an earlier one, whose stored numbers are obsolete."""
        return self.candidate.cursor is None or self.candidate.took_name


class Reading:
    """Reads the jobs of one poll.

    ``open_builds``: by job, from the last poll. ``now``: Jenkins' clock (UTC ms). ``store`` stores facts early, if
    there are too many to keep until the job's cursor is stored.
    """

    def __init__(
        self,
        controller: str,
        clock: Clock,
        reader: JobReader,
        details: Details,
        renames: Renames,
        *,
        open_builds: Mapping[str, Sequence[OpenBuild]],
        now: Callable[[], int],
        store: Callable[[list[Fact]], None],
    ) -> None:
        self._controller = controller
        self._clock = clock
        self._reader = reader
        self._details = details
        self._renames = renames
        self._open_builds = open_builds
        self._now = now
        self._store = store

    def look(self, candidate: Candidate, first: FirstAnswer) -> Looked:
        """Read one job. Raises :class:`JenkinsError`; its cursor is then unchanged."""
        if candidate.cursor is None or not self._renames.was_taken(candidate.job.full_name):
            try:
                return self._read(*self._recognised(candidate, first))
            except AnotherJobError:
                pass
        return self._read_as_another(candidate.as_another_job())

    def _read_as_another(self, candidate: Candidate) -> Looked:
        """Read a job that does not fit its cursor: a renamed job or a new one."""
        if candidate.match is None and not candidate.open_builds:
            return Looked(candidate, first_look(candidate))
        try:
            return self._read(*self._recognised(candidate, self._reader.ask(candidate)))
        except AnotherJobError:
            return self._read(candidate, self._reader.ask(candidate))

    def _recognised(self, candidate: Candidate, first: FirstAnswer) -> tuple[Candidate, FirstAnswer]:
        """Recognise a renamed job by its builds."""
        if not candidate.moved and not candidate.lagging:
            return candidate, first
        cursor, listed = candidate.cursor, first.listing.builds
        if candidate.lagging and cursor is not None and self._renames.shows_another_job(cursor, candidate, listed):
            raise AnotherJobError
        former = self._renames.former(candidate, self._reader.pages(candidate, first.listing))
        if former is None:
            return candidate, first
        candidate = candidate.known_as(former, self._open_builds.get(former.full_name, ()))
        return candidate, self._reader.ask(candidate)

    def _read(self, candidate: Candidate, first: FirstAnswer) -> Looked:
        look = first_look(candidate)
        found: list[Fact] = []
        for final in self._reader.read(candidate, first, look):
            if len(found) >= STORE_AT:
                self._store(found)
                found = []
            found += [fact for raw in final if (fact := self._final(candidate, first, look, raw))]
        found += self._gone(candidate.job.full_name, look.gone)
        looked = Looked(candidate, look, found)
        if looked.renamed is not None:
            self._renames.take(looked.renamed.former)
        return looked

    def _final(self, candidate: Candidate, first: FirstAnswer, look: Look, raw: RawBuild) -> Fact | None:
        """The fact of a final build. If a required page cannot be read yet, the build stays open."""
        build = next((build for build in candidate.open_builds if build.number == raw.number), None)
        now = self._clock.now_ms()
        since = now if build is None else waiting_since(build, now)
        try:
            fact = self._fact(candidate, first, raw, give_up=now - since > UNREADABLE_MS)
            look.endings[raw.number] = Ending.READ
            return fact  # noqa: TRY300 - what follows is of another build
        except NOT_OF_ONE_JOB:
            raise
        except Exception as error:  # noqa: BLE001 - an unexpected error concerns only this build
            look.troubles[raw.number] = error
        first_seen_at = now if build is None else build.first_seen_at
        look.open_builds.append(
            OpenBuild(raw.number, seen=True, first_seen_at=first_seen_at, waiting_since=since, started_at=raw.timestamp)
        )
        return None

    def _fact(self, candidate: Candidate, first: FirstAnswer, raw: RawBuild, *, give_up: bool) -> Fact:
        page, listed = first.listing.pull_request_url, first.listing.builds
        build = self._details.build(
            raw, candidate.job, candidate.match, pull_request_url=page, listed=listed, give_up=give_up
        )
        return facts.final(jenkins_run(self._controller, build.job, build.number), build, at=self._now())

    def with_what_is_gone(self, looked: Looked) -> Looked:
        """Add the open builds of the job that had this name before, unless it was found under another name."""
        if self._renames.was_taken(looked.name):
            return looked
        gone = self._gone(looked.name, looked.candidate.left)
        return replace(looked, facts=[*looked.facts, *gone])

    def _gone(self, job: str, builds: Iterable[OpenBuild]) -> list[Fact]:
        return [
            facts.gone(jenkins_run(self._controller, job, build.number), started_at=build.started_at, at=self._now())
            for build in builds
            if build.started_at is not None
        ]
