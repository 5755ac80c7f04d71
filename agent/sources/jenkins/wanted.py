"""Builds that sent a report and that the poller has not read: each is read once, whether or not a rule matches."""

from __future__ import annotations

import dataclasses
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from agent.config.rules import match_of_reporting
from agent.deployments.attribution import BuildRef, attribute
from agent.deployments.plan import kept_builds
from agent.model import fact as facts
from agent.model.build import Build
from agent.model.keys import jenkins_run
from agent.outbox.values import OpenBuild, Progress
from agent.sources.jenkins.backoff import Backoffs
from agent.sources.jenkins.client import Job, Listing
from agent.sources.jenkins.errors import AskedToWaitError, JenkinsError, UnreachableError
from agent.sources.jenkins.raw import Phase
from agent.sources.jenkins.reading import NOT_OF_ONE_JOB
from agent.sources.jenkins.related import LISTED
from agent.sources.jenkins.unread import in_words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from agent.config.rules import Rule
    from agent.deployments.attribution import BuildFacts
    from agent.model.fact import Fact
    from agent.model.keys import Run
    from agent.outbox.interface import Outbox
    from agent.outbox.values import RunState, WantedBuild
    from agent.sources.jenkins.client import JenkinsClient
    from agent.sources.jenkins.details import Details
    from agent.sources.jenkins.raw import RawBuild

log = structlog.get_logger("poller")

# At most this many are requested in one poll. For builds that may not exist, it is the limit for a whole interval,
# because reports wake the poller as often as once a second.
ASKED_AT_ONCE = 10
# A build that cannot be read for this long (ms) is given up.
GIVEN_UP_MS = 24 * 3_600_000


@dataclass(frozen=True)
class _Asked:
    """A wanted build: its job, if listed, and the number of facts about the build so far.

    ``others``: more wanted builds of the same unlisted job. They are as likely to exist as this one.
    """

    wanted: WantedBuild
    run: Run
    job: Job | None
    said: int
    others: tuple[WantedBuild, ...] = ()

    @property
    def key(self) -> tuple[str, int, bool, int]:
        """The key of its backoff. It changes, and the build is due, when its job is listed or another report arrives.

        All builds of an unlisted job share one backoff.
        """
        if self.job is None:
            return self.wanted.full_name, 0, False, 0
        return self.wanted.full_name, self.wanted.number, True, self.said

    @property
    def may_be_there(self) -> bool:
        """Whether the build is likely to exist. Unknown for an unlisted job."""
        return self.job is None or self.wanted.number < self.job.next_build_number


class WantedBuilds:
    """Reads the wanted builds of one controller."""

    def __init__(
        self,
        controller: str,
        client: JenkinsClient,
        outbox: Outbox,
        details: Details,
        *,
        rules: Sequence[Rule],
        interval_s: float,
    ) -> None:
        self._controller = controller
        self._client = client
        self._outbox = outbox
        self._details = details
        self._rules = rules
        self._backoffs = Backoffs[tuple[str, int, bool, int]](interval_s, outbox.clock)
        self._interval_s = interval_s
        self._doubtful: set[tuple[str, int]] = set()  # could not be read before, even if another report arrived since
        self._doubtful_asked: deque[float] = deque(maxlen=ASKED_AT_ONCE)  # request times (monotonic seconds)

    def read(self, jobs: Iterable[Job], now: int, store: Callable[[list[Fact], Progress], None]) -> None:
        """Request the builds that are due, most likely first; ``store`` receives the result of each.

        ``now``: Jenkins' clock (UTC ms). Raises :class:`agent.sources.jenkins.errors.ControllerDownError`.
        """
        for each in self._due(jobs)[:ASKED_AT_ONCE]:
            if self._is_doubtful(each) and not self._may_ask_in_doubt():
                continue
            try:
                store(*self._read(each, now))
                self._backoffs.succeeded(each.key)
            except AskedToWaitError as error:
                if error.asked:
                    self._failed(each, error, store)
                raise
            except NOT_OF_ONE_JOB:
                raise
            except Exception as error:  # noqa: BLE001 - an unexpected error concerns only this build
                self._failed(each, error, store)
                if isinstance(error, UnreachableError):  # other requests would probably time out too
                    return

    def _is_doubtful(self, asked: _Asked) -> bool:
        return asked.job is None or (asked.wanted.full_name, asked.wanted.number) in self._doubtful

    def _may_ask_in_doubt(self) -> bool:
        now, before = self._outbox.clock.monotonic(), self._doubtful_asked
        if len(before) == ASKED_AT_ONCE and now < before[0] + self._interval_s:
            return False
        before.append(now)
        return True

    def _due(self, jobs: Iterable[Job]) -> list[_Asked]:
        wanted = self._outbox.wanted_builds(self._controller)
        if not wanted:
            return []
        listed = {job.full_name: job for job in jobs}
        runs = {each: jenkins_run(self._controller, each.full_name, each.number) for each in wanted}
        states = self._outbox.load([run for each, run in runs.items() if each.full_name in listed])
        said = {run: len(state.facts) for run, state in states.items()}
        asked = [_Asked(each, run, listed.get(each.full_name), said.get(run, 0)) for each, run in runs.items()]
        self._backoffs.keep_only({each.key for each in asked})
        self._doubtful.intersection_update((each.full_name, each.number) for each in wanted)
        failures = {each.key: each.failures for each in self._backoffs.failing()}
        asked = _one_of_each_unlisted(asked, failures)
        due = [
            each
            for each in asked
            if self._backoffs.due(each.key) and (each.may_be_there or self._is_overdue(each.wanted))
        ]
        return sorted(due, key=lambda each: (each.job is None, self._is_doubtful(each), failures.get(each.key, 0)))

    def _failed(self, asked: _Asked, error: Exception, store: Callable[[list[Fact], Progress], None]) -> None:
        wanted = asked.wanted
        self._doubtful.add((wanted.full_name, wanted.number))
        log.info(
            "reported build cannot be read",
            controller=self._controller,
            build=f"{wanted.full_name}#{wanted.number}",
            reason=in_words(error),
            exc_info=None if isinstance(error, JenkinsError) else error,
        )
        if overdue := [each for each in (wanted, *asked.others) if self._is_overdue(each)]:
            store([], Progress(self._controller, no_longer_wanted=tuple(overdue)))
        if wanted in overdue:
            return
        retry_after_ms = error.retry_after_ms if isinstance(error, UnreachableError) else None
        self._backoffs.failed(asked.key, in_words(error), retry_after_ms)

    def _is_overdue(self, wanted: WantedBuild) -> bool:
        return self._outbox.clock.now_ms() - wanted.since > GIVEN_UP_MS

    def _read(self, asked: _Asked, now: int) -> tuple[list[Fact], Progress]:
        """The current facts about the build, and that it is no longer wanted."""
        wanted = asked.wanted
        done = Progress(self._controller, no_longer_wanted=(wanted,))
        opened = self._outbox.open_builds(self._controller).get(wanted.full_name, ())
        is_open = any(build.number == wanted.number for build in opened)
        state = self._outbox.load([asked.run])[asked.run]
        if is_open or all(build.ref.known for build in _reporting(state)):
            return [], done  # a poll has read it meanwhile
        raw = self._client.build(wanted.full_name, wanted.number)
        if raw.phase is Phase.FINAL:
            return self._final(asked, raw, state, now), done
        if asked.job is None:
            raise JenkinsError(f"it is not final, and job {wanted.full_name} is not in the list of jobs")
        our_now = self._outbox.clock.now_ms()
        waiting_since = None if raw.phase is Phase.RUNNING else our_now
        build = OpenBuild(
            wanted.number, seen=True, first_seen_at=our_now, waiting_since=waiting_since, started_at=raw.timestamp
        )
        return [], dataclasses.replace(done, open_builds={wanted.full_name: (*opened, build)})

    def _final(self, asked: _Asked, raw: RawBuild, state: RunState, now: int) -> list[Fact]:
        run, name = asked.run, asked.wanted.full_name
        probe = facts.final(run, Build(started_at=raw.timestamp, ended_at=raw.ended_at), at=now)
        found = next((b for b in _reporting(state, probe) if b.ref == BuildRef(raw.timestamp, known=True)), None)
        if found is None:
            return []  # the report was about another build with this number, of a job that had the name before
        # already read, and the report came late: it concerns the build that has the number now
        if len(found.finals) > 1:
            return [facts.seen(run, started_at=raw.timestamp, at=now)]
        job = asked.job or Job(name, raw.number + 1, self._client.is_branch_job(name))
        listing = self._client.builds(job, 0, LISTED) if job.branch_job else Listing([])
        match, give_up = match_of_reporting(self._rules, name), self._is_overdue(asked.wanted)
        page = listing.pull_request_url
        build = self._details.build(raw, job, match, pull_request_url=page, listed=listing.builds, give_up=give_up)
        return [facts.final(run, build, at=now)]


def _one_of_each_unlisted(asked: Sequence[_Asked], failures: Mapping[tuple[str, int, bool, int], int]) -> list[_Asked]:
    """One build at a time of each unlisted job, because usually the job does not exist."""
    unlisted: dict[str, list[_Asked]] = {}
    for each in asked:
        if each.job is None:
            unlisted.setdefault(each.wanted.full_name, []).append(each)
    chosen = [of[failures.get(of[0].key, 0) % len(of)] for of in unlisted.values()]
    together = [
        dataclasses.replace(each, others=tuple(o.wanted for o in unlisted[each.wanted.full_name] if o is not each))
        for each in chosen
    ]
    return [each for each in asked if each.job is not None] + together


def _reporting(state: RunState, *more: Fact) -> list[BuildFacts]:
    """The builds of a run that sent reports."""
    builds = attribute([*state.facts, *more], kept_builds(state.deployments))
    return [build for build in builds if build.reports]
