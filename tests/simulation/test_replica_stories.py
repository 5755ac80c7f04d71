"""Stories of a Jenkins that several replicas serve (CloudBees CI HA), each of which lags behind by up to two minutes.

What is promised, and checked after every random story: a build that ended after the first start, in a job that a rule
matches, has its event exactly once, with its final status and its own times; nothing else has one; no build counts as
missed; and when nothing happens any more, a poll costs one request again.

At the edges: a job that was created again and built just as often as the agent knew of the one before, by whichever
answer, is recognised with its next build only. What started before the first poll and ended about then, within the lag,
may be history or not. A build of a job that was deleted is not owed. Half of the stories are worse than what is
documented of a real one: each answer comes from one replica, also those about jobs and executors. In them, what just
began at the first poll is not owed, and the history of a job that was deleted may be told.

``HIVEL_STORIES=2000 pytest tests/simulation/test_replica_stories.py`` plays so many stories.
"""

from __future__ import annotations

import random
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agent.sandbox.jenkins import LocalJenkins, Phase, ReplicatedJenkins
from tests.integration.support import FakeClock, rule
from tests.simulation import played
from tests.simulation.support import REPO, Agent, memory_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.simulation.engines import Engine, Engines

STEPS = 45
LAGS_S = (0, 6, 30, 120)
MOST_MS = max(LAGS_S) * 1000
NAMES = ("deploy/a", "deploy/b", "deploy/team/c", "deploy/mb/main", "lab/a")
RESULTS = ("SUCCESS", "SUCCESS", "UNSTABLE", "FAILURE", "ABORTED")
STATUS = {"SUCCESS": "success", "UNSTABLE": "failed", "FAILURE": "failed", "ABORTED": "canceled"}


HA = "deploy/shop"


# ---- one thing at a time


@dataclass
class Watched:
    """A Jenkins with two replicas, a job with three builds of before, and an agent that knows it."""

    clock: FakeClock
    jenkins: ReplicatedJenkins
    agent: Agent
    replica: int = 0

    def see(self, replica: int) -> list[str]:
        """The deployment_ids that a poll enqueues that reaches this replica, a quarter of a minute later."""
        self.clock.advance(s=15)
        self.replica = replica
        return self.agent.poll().enqueued

    def see_both(self, *, minutes: int) -> list[str]:
        """The same, by one replica after the other."""
        return [found for poll in range(4 * minutes) for found in self.see(poll % 2)]

    def start(self, job: str = HA) -> int:
        number = self.jenkins.change(lambda jenkins: jenkins.start_build(job, repo=REPO))
        self.clock.advance(s=1)
        return number

    def end(self, number: int, result: str = "SUCCESS", job: str = HA) -> None:
        self.jenkins.change(lambda jenkins: jenkins.finish_build(job, number, result))

    def missed(self) -> int:
        with self.agent.outbox() as outbox:
            return sum(missed.builds for missed in outbox.missed())


@pytest.fixture
def watched(engine: Engine, clock: FakeClock) -> Iterator[Watched]:
    """Replica 0 is up to date, replica 1 lags by two minutes, in every answer."""

    def make(now_ms: Callable[[], int]) -> LocalJenkins:
        jenkins = LocalJenkins(now_ms=now_ms)
        jenkins.add_job(HA)
        jenkins.add_builds(HA, 3, repo=REPO)
        return jenkins

    jenkins = ReplicatedJenkins(
        make, (0, MOST_MS), now_ms=clock.now_ms, aggregated=False, route=lambda _: watched.replica
    )
    watched = Watched(clock, jenkins, Agent(engine, {"main": jenkins}, (rule("deploy/**"),)))
    clock.advance(s=600)
    assert watched.see(0) == []
    yield watched
    watched.agent.kill()


def test_the_next_number_goes_back_and_forth(watched: Watched) -> None:
    """It is the same job: its history is not told, what runs is followed, and it costs one question each time."""
    running, ended = watched.start(), watched.start()
    watched.end(ended)
    assert watched.see(0) == ["main:deploy/shop#5"]
    for _ in range(3):
        assert watched.see(1) == []
        assert watched.see(0) == []
        with watched.agent.outbox() as outbox:
            assert [build.number for build in outbox.open_builds("main")[HA]] == [running]
    watched.end(running, "FAILURE")
    assert watched.see_both(minutes=5) == ["main:deploy/shop#4"]
    assert [event.status for event in watched.agent.reported()] == ["success", "failed"]
    assert (watched.missed(), watched.agent.poll().requests) == (0, 1)


def test_a_job_that_is_created_again_is_not_taken_for_an_answer_that_lags(watched: Watched) -> None:
    number = watched.start()
    watched.end(number)
    assert watched.see(0) == ["main:deploy/shop#4"]
    watched.jenkins.change(lambda jenkins: jenkins.delete_job(HA))
    watched.jenkins.change(lambda jenkins: jenkins.add_job(HA))
    number = watched.start()
    watched.end(number)
    assert watched.see(0) == ["main:deploy/shop#1"]


def test_a_build_that_was_seen_is_not_there_for_two_minutes(watched: Watched) -> None:
    number = watched.start()
    assert watched.see(0) == []
    assert [watched.see(1) for _ in range(7)] == [[]] * 7  # 404 there, and in no list
    watched.end(number, "UNSTABLE")
    assert watched.see_both(minutes=5) == ["main:deploy/shop#4"]
    assert [event.status for event in watched.agent.reported()] == ["failed"]
    assert watched.missed() == 0


def test_a_number_is_given_away_and_its_build_is_in_no_list_for_two_minutes(watched: Watched) -> None:
    number = watched.start()
    watched.end(number)
    roots = iter([0, *[1] * 100])  # the list of jobs comes from one replica, the job's from the other
    watched.jenkins.route = lambda _: next(roots)
    watched.clock.advance(s=1)
    assert watched.agent.poll().enqueued == []
    watched.jenkins.route = lambda _: watched.replica
    assert [watched.see(1) for _ in range(6)] == [[]] * 6
    assert watched.see(0) == ["main:deploy/shop#4"]
    assert watched.missed() == 0


def test_a_build_that_ended_runs_on_the_replica_that_lags(watched: Watched) -> None:
    number = watched.start()
    watched.clock.advance(s=MOST_MS / 1000)
    watched.end(number)
    assert watched.see(0) == ["main:deploy/shop#4"]
    assert watched.see_both(minutes=5) == []
    assert watched.agent.poll().requests == 1


@pytest.mark.parametrize("stands_still_s", [0, 15, 110])
def test_a_build_of_a_replica_that_dies_is_adopted_and_ends_once(watched: Watched, stands_still_s: int) -> None:
    watched.jenkins.set_lag(1, 0)
    number = watched.start()
    assert watched.see(0) == []
    adopted = watched.jenkins.stop_replica(number % 2)
    assert adopted == [(HA, number)]
    for _ in range(stands_still_s // 15):
        assert watched.see(1 - number % 2) == []
    watched.jenkins.adopt(adopted)
    assert [watched.see(1 - number % 2) for _ in range(40)] == [[]] * 40
    watched.jenkins.start_replica(number % 2)
    watched.end(number, "FAILURE")
    assert watched.see_both(minutes=5) == ["main:deploy/shop#4"]
    assert [event.status for event in watched.agent.reported()] == ["failed"]


def test_a_build_stands_still_twice_and_runs_in_between(watched: Watched) -> None:
    """The second time it waits anew: what is on an executor waits no longer."""
    watched.jenkins.set_lag(1, 0)
    number = watched.start()
    assert watched.see(0) == []
    for replica in (0, 1):
        builds = watched.jenkins.stop_replica(replica)
        assert [watched.see(1 - replica) for _ in range(11)] == [[]] * 11
        watched.jenkins.adopt(builds)
        assert watched.see(1 - replica) == []
        watched.jenkins.start_replica(replica)
    watched.end(number)
    assert watched.see(0) == ["main:deploy/shop#4"]
    assert [event.status for event in watched.agent.reported()] == ["success"]


def test_a_build_that_looked_final_runs_on_another_replica(watched: Watched) -> None:
    """What was delivered stays; what became of the build is known as soon as the job is read again."""
    number = watched.start()
    watched.see(0)
    watched.jenkins.change(lambda jenkins: jenkins.finish_build(HA, number, "ABORTED"), only_on=0)
    assert watched.see(0) == ["main:deploy/shop#4"]
    watched.jenkins.change(lambda jenkins: jenkins.set_phase(HA, number, Phase.RUNNING))
    watched.start()
    assert watched.see(0) == []
    watched.clock.advance(s=60)
    watched.end(number)
    assert watched.see(0) == ["main:deploy/shop#4"]  # not sent by now, so it is sent as it ended
    [event] = watched.agent.reported()
    assert (event.status, event.ended_at) == ("success", watched.clock.now_ms() - 15_000)


def test_a_new_job_in_a_new_folder_is_there_and_not_there(watched: Watched) -> None:
    job = "deploy/new/api"
    watched.jenkins.change(lambda jenkins: jenkins.add_job(job))
    number = watched.start(job)
    assert (watched.see(0), watched.see(1)) == ([], [])
    watched.end(number, job=job)
    assert watched.see(1) == []
    assert watched.see_both(minutes=5) == [f"main:{job}#1"]
    second = watched.start(job)
    watched.end(second, job=job)
    assert watched.see_both(minutes=5) == [f"main:{job}#2"]
    assert watched.missed() == 0


# ---- random stories


@dataclass(eq=False)
class Build:
    """What really is the case with a build."""

    job: str
    number: int
    started_at: int
    result: str | None = None
    ended_at: int | None = None
    deleted: bool = False

    @property
    def key(self) -> tuple[int, int]:
        return self.number, self.started_at


@dataclass
class Orphans:
    """What ran on a replica that ended, until another one adopts it."""

    builds: list[tuple[str, int]]
    replica: int
    adopted_at: int
    started_at: int


@dataclass
class World:
    """Jenkins with its replicas, the agent, and the truth about both."""

    rng: random.Random
    engine: Engine
    clock: FakeClock
    jobs: set[str] = field(default_factory=set)
    builds: list[Build] = field(default_factory=list)
    deleted: dict[str, set[int]] = field(default_factory=dict)  # the next numbers of those that had the name before
    met: dict[str, set[int]] = field(default_factory=dict)
    orphans: list[Orphans] = field(default_factory=list)
    first_poll: int = 0

    def __post_init__(self) -> None:
        count = self.rng.choice([2, 2, 3])
        self.lags = [self.rng.choice(LAGS_S) * 1000 for _ in range(count)]
        self.aggregated, changes_replica = self.rng.random() < 0.5, self.rng.choice([1.0, 1.0, 0.1])
        self.jenkins = ReplicatedJenkins(
            lambda now_ms: LocalJenkins(now_ms=now_ms), self.lags, now_ms=self.clock.now_ms, aggregated=self.aggregated,
            route=Routing(self.rng, changes_replica),
        )  # fmt: skip
        self.agent = Agent(self.engine, {"main": self.jenkins}, (rule("deploy/**"),))
        self.up = set(range(count))

    def play(self) -> None:
        for name in self.rng.sample(NAMES, 3):
            self._create(name)
            for _ in range(self.rng.randrange(3)):
                self._run(name)
        self._pass(s=600)
        for name in sorted(self.jobs):
            if self.rng.random() < 0.5:
                self._start(name)
        self._pass(s=self.rng.choice([1, 200]))
        self.first_poll = self.clock.now_ms()
        self._poll()
        for _ in range(STEPS):
            self._step()
        self._settle()
        self._check()

    def _step(self) -> None:
        happens: list[Callable[[], object]] = [
            self._poll_in_time, self._poll_in_time, self._poll_in_time, self._poll_in_time,
            self._start_one, self._start_one, self._end_one, self._end_one, self._run_one, self._appear,
            self._replica_ends, self._lag_changes, self._killed, self._wait,
        ]  # fmt: skip
        self.rng.choice([*happens, *happens, *happens, self._created_again])()

    # ---- time and polls

    def _pass(self, *, s: float) -> None:
        until = self.clock.now_ms() + round(s * 1000)
        for orphans in list(self.orphans):
            for moment in sorted({orphans.adopted_at, orphans.started_at}):
                if moment <= until:
                    self.clock.advance(ms=max(moment - self.clock.now_ms(), 0))
                    self._recover(orphans, moment)
        self.clock.advance(ms=until - self.clock.now_ms())

    def _recover(self, orphans: Orphans, now: int) -> None:
        if orphans.builds and orphans.adopted_at <= now:
            self.jenkins.adopt(orphans.builds)
            orphans.builds = []
        if orphans.started_at <= now and orphans.adopted_at <= now:
            self.jenkins.start_replica(orphans.replica)
            self.up.add(orphans.replica)
            self.orphans.remove(orphans)

    def _wait(self) -> None:
        self._pass(s=self.rng.choice([1, 15, 50, 130]))

    def _poll_in_time(self) -> None:
        self._pass(s=15)
        self._poll()

    def _poll(self) -> None:
        played.now.polls += 1
        self._note_what_is_met()
        self.agent.poll()
        self._note_what_is_met()

    def _note_what_is_met(self) -> None:
        """The next numbers by which the agent may know a job that is created again, now or later."""
        for name in self.jobs:
            told = self.jenkins.next_numbers(name)
            self.met[name] = told
            if name in self.deleted:
                self.deleted[name] |= told - {self.jenkins.truth.next_build_number(name)}

    def _killed(self) -> None:
        if self.rng.random() < 0.5:
            self.agent.kill()
        else:
            self.agent.poll_and_die(request=self.rng.randint(1, 4))

    # ---- jobs and builds

    def _create(self, name: str) -> None:
        self.jenkins.change(lambda jenkins: jenkins.add_job(name))
        self.jobs.add(name)

    def _appear(self) -> None:
        free = [name for name in NAMES if name not in self.jobs]
        if free:
            self._create(self.rng.choice(free))

    def _created_again(self) -> None:
        name = self.rng.choice(sorted(self.jobs))
        if any(orphan[0] == name for orphans in self.orphans for orphan in orphans.builds):
            return
        last = {self.jenkins.truth.next_build_number(name)}
        self.deleted[name] = self.deleted.get(name, set()) | last | self.met.pop(name, set())
        self.jenkins.change(lambda jenkins: jenkins.delete_job(name))
        for build in self.builds:
            build.deleted = build.deleted or build.job == name
        self._pass(s=self.rng.choice([5, 300]))
        self._create(name)

    def _start(self, name: str) -> Build:
        self._pass(s=0.001)
        number = self.jenkins.change(lambda jenkins: jenkins.start_build(name, repo=REPO))
        build = Build(name, number, self.clock.now_ms())
        self.builds.append(build)
        return build

    def _end(self, build: Build) -> None:
        name, number, result = build.job, build.number, self.rng.choice(RESULTS)
        self._pass(s=0.001)
        build.result, build.ended_at = result, self.clock.now_ms()
        self.jenkins.change(lambda jenkins: jenkins.finish_build(name, number, result))

    def _run(self, name: str) -> None:
        build = self._start(name)
        self._pass(s=self.rng.choice([1, 20, 100]))
        if (name, build.number) not in self._standing_still():
            self._end(build)

    def _standing_still(self) -> set[tuple[str, int]]:
        return {build for orphans in self.orphans for build in orphans.builds}

    def _running(self) -> list[Build]:
        still = self._standing_still()
        return [b for b in self.builds if b.ended_at is None and not b.deleted and (b.job, b.number) not in still]

    def _start_one(self) -> None:
        self._start(self.rng.choice(sorted(self.jobs)))

    def _run_one(self) -> None:
        self._run(self.rng.choice(sorted(self.jobs)))

    def _end_one(self) -> None:
        if running := self._running():
            self._end(self.rng.choice(running))

    # ---- replicas

    def _replica_ends(self) -> None:
        if len(self.up) < 2 or self.orphans:
            return
        replica = self.rng.choice(sorted(self.up))
        self.up.remove(replica)
        builds = self.jenkins.stop_replica(replica)
        now = self.clock.now_ms()
        adopted_at = now + self.rng.choice([0, 10, 110]) * 1000
        self.orphans.append(Orphans(builds, replica, adopted_at, adopted_at + self.rng.choice([20, 300]) * 1000))

    def _lag_changes(self) -> None:
        self.jenkins.set_lag(self.rng.randrange(len(self.lags)), self.rng.choice(LAGS_S) * 1000)

    # ---- the end

    def _settle(self) -> None:
        """Everything that runs ends, and the agent looks until every lag and every grace period is over."""
        self._pass(s=400)
        for build in self._running():
            self._end(build)
        for _ in range(20):
            self._pass(s=30)
            self._poll()

    def _check(self) -> None:
        reported = self.agent.reported()
        known = {build.key: build for build in self.builds}
        for event in reported:
            build = known[event.number, event.started_at]
            assert build.job.startswith("deploy/"), event
            assert build.ended_at is not None and build.result is not None, f"{event} still runs"
            if self.aggregated or not build.deleted:
                assert build.ended_at > self.first_poll - MOST_MS, f"{event} is history"
            assert (event.status, event.ended_at) == (STATUS[build.result], build.ended_at), f"{event} of {build}"
        times = Counter((event.number, event.started_at) for event in reported)
        assert not [key for key, count in times.items() if count > 1], "reported more than once"
        lost = [build for build in self.builds if self._is_owed(build) and build.key not in times]
        assert not lost, f"not reported: {lost}"
        with self.agent.outbox() as outbox:
            missed = [missed for missed in outbox.missed() if missed.full_name not in self.deleted]
            assert not missed
            assert outbox.open_builds("main") == {}
        self._pass(s=15)
        assert self.agent.poll().requests == 1

    def _is_owed(self, build: Build) -> bool:
        if build.deleted or build.ended_at is None or not build.job.startswith("deploy/"):
            return False
        if self.jenkins.truth.next_build_number(build.job) in self.deleted.get(build.job, ()):
            return False
        if not self.aggregated and self.first_poll - MOST_MS < build.started_at <= self.first_poll:
            return False
        return build.ended_at > self.first_poll + MOST_MS or build.started_at > self.first_poll


class Routing:
    """To any replica, or seldom to another one than before, as with sticky sessions."""

    def __init__(self, rng: random.Random, changes: float) -> None:
        self._rng = rng
        self._changes = changes
        self._last: int | None = None

    def __call__(self, up: Sequence[int]) -> int:
        if self._last not in up or self._rng.random() < self._changes:
            self._last = self._rng.choice(up)
        assert self._last is not None
        return self._last


@pytest.mark.parametrize("part", range(10))
def test_random_stories_of_replicas(engines: Engines, part: int) -> None:
    for seed in range(part, engines.stories(sqlite=200, postgresql=5), 10):
        clock = FakeClock()
        with memory_folder() as name, closing(engines(Path(name), clock)) as engine:
            world = World(random.Random(seed), engine, clock)
            played.begin(f"replicas on {engines.name}")
            try:
                world.play()
            except AssertionError as error:
                raise AssertionError(f"story {seed} (lags {world.lags} ms): {error}") from error
            finally:
                world.agent.kill()
