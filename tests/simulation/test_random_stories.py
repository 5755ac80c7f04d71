"""Stories that nobody thought of: a Jenkins that does anything at random, an agent that dies at any moment.

What is promised, and checked after every story:

* a build that was final and visible, in a job that matched a rule, when a poll went through undisturbed, has its
  event exactly once, with its final status and its own times, under whatever names its job went;
* nothing else has an event: no running build, no job that matches no rule, nothing from before the first start.

At the edges of it:

* A build that no undisturbed poll could see (discarded, deleted with its job, or hidden all its life) is not owed.
* A disturbed poll (killed, or Jenkins went away or changed in the middle) may have seen what was there before or
  after, but owes only what was there both before and after.
* What ended while its job matched no rule is neither owed nor wrong once the job has a name that matches.
* A job created again that has passed the number of its predecessor is told by the newest of those of its builds that
  have a number of the predecessor's: that was known with another start, or it started after the predecessor was last
  met. Where neither is so (because the clock was set back and what was known is gone), where Jenkins cannot read just
  that build (lists leave it out, and looking for another one would cost a request for each job that keeps few builds),
  or while the job is exactly where its predecessor was, the builds with the predecessor's numbers are not owed. Those
  beyond are.
* A job under another name is told by the newest of its builds that a poll met or, where that is gone, by any build that
  was reported, unless another job has its former name meanwhile: then it is a new job for the agent, and its builds may
  be reported once more. So may those of a job that was overlooked, because its next number is just that of the job that
  had its new name before, while another job came under its former name.
* A job with a past that takes the name of one that the agent knows may bring its past, if no poll read a build of it:
  by their numbers these are new builds, and that they started before may be the work of a clock that was set back.
* For the same reason a build of a job that the agent knew when it started is owed whenever it ended by Jenkins' clock.
* While the pages of a job fail, and until its backoff is over, nothing is owed. Afterwards everything is.
* A build that stays odd (not building, no result) is owed when the grace period is over, with an unknown result.
* Jenkins' times are whole seconds in its ``Date`` header: what ended in the second of the first start is neither. What
  was about to end then is not owed: it may be on no executor any more, and have no end yet.

``HIVEL_STORIES=2000 pytest tests/simulation/test_random_stories.py`` plays so many stories.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from starlette.responses import HTMLResponse

from agent.inspect.audit import Outcome
from agent.model.names import job_path
from agent.sandbox.jenkins import Interrupted, LocalJenkins, Phase
from tests.integration.support import FakeClock
from tests.integration.support import rule as deployments_in
from tests.simulation import played
from tests.simulation.support import REPO, Agent, memory_folder, play_random_stories

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.responses import Response

    from tests.simulation.engines import Engines

STEPS = 35
HOUR = 3_600_000
TOLERANCE = 3_000  # of the comparison of Jenkins' times: the agent's own, and a Date header's whole second
RULE = "deploy/**"
NAMES = (
    "deploy/a", "deploy/b", "deploy/team/c", "deploy/crew/c", "deploy/mb/main", "deploy/mb/feature%2Fx",
    "lab/a", "lab/b", "lab/team/c",
)  # fmt: skip
FOLDERS = ("deploy", "deploy/team", "deploy/crew", "deploy/mb", "lab", "lab/team")
STATUS = {"SUCCESS": "success", "UNSTABLE": "failed", "FAILURE": "failed", "ABORTED": "canceled", None: "unknown"}

names = st.sampled_from(NAMES)
kinds = st.sampled_from(["pipeline", "pipeline", "freestyle", "matrix"])
results = st.sampled_from(["SUCCESS", "UNSTABLE", "FAILURE", "ABORTED"])
picks = st.integers(0, 1_000)


@dataclass(eq=False)
class Build:
    """What really is the case with a build. ``key``: no two builds of a story share number and timestamp."""

    job: Job
    number: int
    started_at: int
    result: str | None = None
    ended_at: int | None = None
    final: bool = False
    odd: bool = False  # not building, and it will never have a result
    settling: bool = False  # not to be seen, or between two states; only for a moment
    listed: bool = True
    of_known_job: bool = False  # the agent knew the job when it started
    after_a_poll: bool = False  # perhaps it did, if that poll was killed late enough
    ended_matching: bool = False
    ending_before_first_start: bool = False
    ended_after_first_start: bool = False

    @property
    def key(self) -> tuple[int, int]:
        return self.number, self.started_at

    @property
    def running(self) -> bool:
        return not self.final and not self.odd and self.ended_at is None


@dataclass(eq=False)
class Job:
    """A job under all the names that it ever has; deleted and created again it is another one."""

    name: str
    kind: str
    builds: list[Build] = field(default_factory=list)
    renamed: bool = False
    told: bool = True  # under every name that a poll met
    corrupt: list[int] = field(default_factory=list)
    known: bool = False  # by a build that a poll read
    not_owed_below: int = 0  # its predecessor's numbers, if the agent cannot know that it is another job

    @property
    def listed(self) -> list[Build]:
        return [build for build in self.builds if build.listed]

    @property
    def matches(self) -> bool:
        return self.name.startswith("deploy/")


@dataclass(frozen=True)
class Meeting:
    """What a poll may have met last under a name, and what it can know of it: never more than this.

    ``newest``: the highest number of a build that it read, 0 for none. ``latest``: the highest time of Jenkins that it
    saw.
    """

    job: Job
    next_number: int
    newest: int
    latest: int

    def tells(self, job: Job, next_number: int) -> bool:
        """Whether another job that is met under the name can be known as another one."""
        if next_number <= self.next_number:
            return next_number < self.next_number
        shared = [build for build in job.listed if build.number < self.next_number]
        newest = max(shared, key=lambda build: build.number, default=None)
        corrupt = max((number for number in job.corrupt if number < self.next_number), default=0)
        if newest is not None and newest.number < corrupt:
            return False
        return newest is None or newest.number == self.newest or newest.started_at > self.latest + TOLERANCE


class World(RuleBasedStateMachine):
    """Jenkins, the agent, and the truth about both."""

    def __init__(self, engines: Engines) -> None:
        super().__init__()
        played.begin(f"Jenkins on {engines.name}")
        self.folder = memory_folder()
        self.time = FakeClock()
        self.agents_clock = FakeClock()
        self.engine = engines(Path(self.folder.name), self.agents_clock)
        self.jenkins = LocalJenkins(now_ms=self.time.now_ms)
        self.jobs: list[Job] = []
        self.hidden: set[str] = set()
        self.failing: dict[Job, str] = {}  # which of its pages
        self.up = True
        self.allowed: set[Build] = set()
        self.owed: set[Build] = set()
        self.everything: dict[tuple[int, int], Build] = {}
        # What ended before `oldest` is history; from `newest` on it is not. They differ when first polls failed, each
        # of which may have set the limit, and the clock went on or was set between them.
        self.oldest: int | None = None
        self.newest: int | None = None
        self.started = False
        self.met: dict[str, set[Meeting]] = {}

    @initialize(since_hours=st.sampled_from([0, 0, 1]), skew=st.sampled_from([0, 0, -300_000, 300_000]), past=st.data())
    def once(self, since_hours: int, skew: int, past: Any) -> None:
        """Some jobs with a past, before the agent is there."""
        self.since_ms = since_hours * HOUR
        self.jenkins.skew_ms = skew
        self.agent = Agent(
            self.engine, {"main": self.jenkins}, (deployments_in(RULE),),
            since=f"{since_hours}h" if since_hours else "now",
        )  # fmt: skip
        self.jenkins.break_with(self._fail)
        for folder in FOLDERS:
            self.jenkins.add_folder(folder, "multibranch" if folder.endswith("/mb") else "folder")
        for name in past.draw(st.lists(names, max_size=4, unique=True)):
            job = self._create(name, past.draw(kinds))
            for minutes in sorted(past.draw(st.lists(st.sampled_from([5, 50, 70, 9_000]), max_size=3)), reverse=True):
                build = self._start(job, ago_ms=minutes * 60_000)
                self._finish(build, "SUCCESS", ended_at=build.started_at + 1_000)
        self._pass(seconds=10)

    # ---- the truth

    def _matching_finals(self) -> dict[Build, str]:
        """The builds that a poll could see now and that should have an event, with their jobs' names."""
        if not self.up:
            return {}
        return {
            build: job.name
            for job in self.jobs
            if job.matches and self._visible(job)
            for build in job.builds
            if build.final or build.odd
        }

    def _meeting(self) -> dict[str, Meeting]:
        """What a poll could meet now, by name."""
        return {job.name: self._meeting_of(job) for job in self.jobs if self._visible(job)} if self.up else {}

    def _meeting_of(self, job: Job) -> Meeting:
        newest = max((build.number for build in job.listed), default=0) if job.matches else 0
        latest = max((build.started_at for build in job.listed), default=0)
        return Meeting(job, self.jenkins.next_build_number(job.name), newest, max(latest, self.jenkins.now_ms))

    def _note_meeting(self, before: dict[str, Meeting], after: dict[str, Meeting], *, for_sure: bool) -> None:
        for name, meeting in (*before.items(), *after.items()):
            known = self.met.get(name, set())
            untold = {met for met in known if met.job is not meeting.job and not self._tells(met, meeting)}
            for met in untold:
                if meeting.next_number > met.next_number:
                    meeting.job.not_owed_below = max(meeting.job.not_owed_below, met.next_number)
            former = {met for meetings in self.met.values() for met in meetings if met.job is meeting.job}
            if for_sure and not untold and meeting.job.matches:
                self._forget_names(meeting.job)
            self.met[name] = (untold if for_sure else known) | self._after(former, meeting)
            if for_sure and not untold and all(met.newest for met in self.met[name]):
                meeting.job.known = True

    def _forget_names(self, job: Job) -> None:
        """A job is known under one name, once it was recognised; what was met of it without a build stays behind."""
        for name, meetings in self.met.items():
            self.met[name] = {met for met in meetings if met.job is not job or not met.newest}

    @staticmethod
    def _tells(met: Meeting, meeting: Meeting) -> bool:
        return met.tells(meeting.job, meeting.next_number)

    def _after(self, former: set[Meeting], meeting: Meeting) -> set[Meeting]:
        """What may be known of a job after a meeting.

        The newest build that was known stays known when it is gone. Where no build was started since, none may have
        been read.
        """
        newest = max(meeting.newest, *(met.newest for met in former), 0)
        latest = max(meeting.latest, *(met.latest for met in former), 0)
        unread = {met.newest for met in former if met.next_number == meeting.next_number}
        if self.since_ms == 0 and not self.started:
            unread.add(0)
        return {replace(meeting, newest=number, latest=latest) for number in {newest} | unread}

    def _note_who_is_told(self, meeting: dict[str, Meeting]) -> None:
        """Jobs under other names that the agent cannot know by their newest builds, which are gone, or not yet."""
        for name, met in meeting.items():
            former = {
                former: known
                for former, meetings in self.met.items()
                if former != name and (known := {m.newest for m in meetings if m.job is met.job} - {0})
            }
            gone = not set().union(*former.values()) <= {build.number for build in met.job.listed}
            overlooked = any(m.job is not met.job and m.next_number == met.next_number for m in self.met.get(name, ()))
            if gone or (former and overlooked):
                met.job.known = False
                met.job.told = met.job.told and not former.keys() & meeting.keys()
                for build in met.job.builds:
                    build.of_known_job = False

    def _not_owed(self, meeting: dict[str, Meeting]) -> set[Build]:
        """The builds that have a number of a predecessor of their job, where the agent cannot tell them apart."""
        below = {
            met.job: max(
                (m.next_number for m in self.met.get(name, ()) if m.job is not met.job and not self._tells(m, met)),
                default=0,
            )
            for name, met in meeting.items()
        }
        return {
            build
            for job in self.jobs
            for build in job.builds
            if build.number < max(below.get(job, 0), job.not_owed_below)
        }

    def _visible(self, job: Job) -> bool:
        return not any(job.name == hidden or job.name.startswith(f"{hidden}/") for hidden in self.hidden)

    def _note(
        self, before: dict[Build, str], after: dict[Build, str], not_owed: set[Build], *, disturbed: bool
    ) -> None:
        """What a poll may have enqueued and what it must have."""
        for build in before.keys() | after.keys():
            after_first_start = build.ended_after_first_start or self._end(build) >= (self.oldest or 0)
            if after_first_start or build.after_a_poll or self._may_bring_its_past(build.job):
                self.allowed.add(build)
        if disturbed:
            return
        for build in before.keys() & after.keys():
            same = build.final and before[build] == after[build] and build not in not_owed
            if same and self._is_owed(build):
                self.owed.add(build)

    def _may_bring_its_past(self, job: Job) -> bool:
        """It has the name of one that the agent knows."""
        return job.renamed and any(met.job is not job for met in self.met.get(job.name, ()))

    def _is_owed(self, build: Build) -> bool:
        """Whatever the time of its end, if the agent knew the job before: the clock may have been set back."""
        after_first_start = build.ended_after_first_start and not build.ending_before_first_start
        after_first_start = after_first_start or self.since_ms > 0
        in_time = self._end(build) > (self.newest or 0) or build.of_known_job
        return build.ended_matching and after_first_start and in_time

    @staticmethod
    def _end(build: Build) -> int:
        return build.started_at if build.ended_at is None else build.ended_at

    # ---- polls, and what gets into their way

    def _polling(self, poll: Callable[[], bool]) -> None:
        """``poll`` tells whether it went through undisturbed."""
        played.now.polls += 1
        before, meeting, up = self._matching_finals(), self._meeting(), self.up
        if up and not self.started:
            report_from = self.jenkins.now_ms - self.since_ms
            self.oldest = min(self.oldest or report_from, report_from // 1000 * 1000)
            self.newest = max(self.newest or 0, report_from)
        undisturbed = poll() and up and self.up and not self.failing and not self.agent.unread()
        after = self._meeting()
        not_owed = self._not_owed(meeting) | self._not_owed(after)
        self._note_who_is_told(meeting)
        self._note_who_is_told(after)
        self._note(before, self._matching_finals(), not_owed, disturbed=not undisturbed)
        self._note_meeting(meeting, after, for_sure=undisturbed and meeting == after)
        self.started = self.started or undisturbed

    @rule()
    def poll(self) -> None:
        self._polling(lambda: self.agent.poll() is not None)

    @rule()
    def a_quarter_of_a_minute_and_a_poll(self) -> None:
        self._pass(seconds=15)
        self.poll()

    @rule(request=st.integers(1, 6))
    def killed_at_a_request(self, request: int) -> None:
        self._polling(lambda: not self.agent.poll_and_die(request=request))

    @rule(statement=st.integers(1, 30), after=st.booleans())
    def killed_at_a_statement(self, statement: int, after: bool) -> None:
        self._polling(lambda: not self.agent.poll_and_die(statement=statement, after=after))

    @rule()
    def killed_between_polls(self) -> None:
        self.agent.kill()

    @rule(request=st.integers(1, 6), pick=picks, event=st.sampled_from(["start", "finish", "delete", "rename", "down"]))
    def something_happens_during_a_poll(self, request: int, pick: int, event: str) -> None:
        happen = {
            "start": lambda: self._each_job(pick, self._start),
            "finish": lambda: self._each_running(pick, lambda build: self._finish(build, "SUCCESS")),
            "delete": lambda: self._each_done(pick, self._delete),
            "rename": lambda: self._each_job(pick, lambda job: self._rename(job, NAMES[pick % len(NAMES)])),
            "down": self._down,
        }[event]
        left = [request]

        def count() -> None:
            left[0] -= 1
            if left[0] == 0:
                happen()

        self.agent.at_request = count
        try:
            self._polling(lambda: self.agent.poll() is not None)
        finally:
            self.agent.at_request = lambda: None

    # ---- time

    def _pass(self, *, seconds: float) -> None:
        """Time goes by, and with it the states that last for a moment only."""
        self.time.advance(s=seconds)
        self.agents_clock.advance(s=seconds)
        for build in self._builds():
            if build.settling:
                self._settle(build)

    def _settle(self, build: Build) -> None:
        build.settling, build.listed = False, True
        if build.ended_at is not None:
            duration = build.ended_at - build.started_at
            self.jenkins.finish_build(build.job.name, build.number, build.result, duration=duration)
            self._note_final(build)
        else:
            self.jenkins.reveal_build(build.job.name, build.number)
            self.jenkins.set_phase(build.job.name, build.number, Phase.RUNNING)

    def _reveal(self, build: Build) -> None:
        self.jenkins.reveal_build(build.job.name, build.number)
        build.listed = True

    @rule(seconds=st.sampled_from([1, 20, 70, 400, 90_000]))
    def time_goes_by(self, seconds: int) -> None:
        self._pass(seconds=seconds)

    @rule(seconds=st.sampled_from([-7_200, -30, 30, 7_200]))
    def the_agents_clock_is_set(self, seconds: int) -> None:
        self._pass(seconds=1)
        self.agents_clock.jump(ms=seconds * 1000)

    # ---- builds

    def _builds(self) -> list[Build]:
        return [build for job in self.jobs for build in job.builds]

    def _each_job(self, pick: int, do: Callable[[Job], object]) -> None:
        if self.jobs:
            do(self.jobs[pick % len(self.jobs)])

    def _each_running(self, pick: int, do: Callable[[Build], object]) -> None:
        running = [build for build in self._builds() if build.running]
        if running:
            do(running[pick % len(running)])

    def _each_done(self, pick: int, do: Callable[[Build], object]) -> None:
        done = [build for build in self._builds() if build.final]
        if done:
            do(done[pick % len(done)])

    def _start(self, job: Job, *, ago_ms: int = 0) -> Build:
        number = self.jenkins.next_build_number(job.name)
        self.time.advance(ms=1)
        while (number, self.jenkins.now_ms - ago_ms) in self.everything:
            self.time.advance(ms=1)  # the controller's clock was set back
        build = Build(
            job, number, self.jenkins.now_ms - ago_ms, of_known_job=job.known, after_a_poll=self.oldest is not None
        )
        self.jenkins.start_build(job.name, repo=REPO, timestamp=build.started_at)
        self.everything[build.key] = build
        job.builds.append(build)
        return build

    def _finish(self, build: Build, result: str, ended_at: int | None = None) -> None:
        build.result = result
        build.ended_at = max(ended_at or self.jenkins.now_ms, build.started_at + 1)
        self._settle(build)

    def _note_final(self, build: Build) -> None:
        build.final = True
        build.ended_matching = build.job.matches
        build.ended_after_first_start = self.started
        kept = self.jenkins.numbers(build.job.name)
        for discarded in [build for build in build.job.builds if build.number not in kept]:
            build.job.builds.remove(discarded)

    def _delete(self, build: Build) -> None:
        self.jenkins.delete_build(build.job.name, build.number)
        build.job.builds.remove(build)

    @rule(pick=picks, moment=st.sampled_from([None, None, "given", "listed", "starting"]))
    def a_build_starts(self, pick: int, moment: str | None) -> None:
        def start(job: Job) -> None:
            build = self._start(job)
            if moment == "starting":
                self.jenkins.set_phase(job.name, build.number, Phase.STARTING)
            elif moment:
                self.jenkins.reveal_build(job.name, build.number, listed=moment == "listed", found=False)
            build.settling, build.listed = moment is not None, moment != "given"

        self._each_job(pick, start)

    @rule(pick=picks, result=results)
    def a_result_is_provisional(self, pick: int, result: str) -> None:
        def show(build: Build) -> None:
            if not build.settling:
                self.jenkins.set_phase(build.job.name, build.number, Phase.PROVISIONAL, result)

        self._each_running(pick, show)

    @rule(pick=picks, result=results, slowly=st.booleans())
    def a_build_ends(self, pick: int, result: str, slowly: bool) -> None:
        def end(build: Build) -> None:
            if not slowly:
                self._finish(build, result)
                return
            self._reveal(build)
            self.jenkins.set_phase(build.job.name, build.number, Phase.ENDING, result)
            build.result, build.settling = result, True
            build.ending_before_first_start = not self.started
            build.ended_at = max(self.jenkins.now_ms, build.started_at + 1)

        self._each_running(pick, end)

    @rule(pick=picks, result=results, seconds=st.sampled_from([1, 30, 1_000]))
    def a_build_runs_from_start_to_end(self, pick: int, result: str, seconds: int) -> None:
        def run(job: Job) -> None:
            build = self._start(job)
            self._pass(seconds=seconds)
            self._finish(build, result)

        self._each_job(pick, run)

    @rule(pick=picks)
    def a_build_stays_odd(self, pick: int) -> None:
        def leave(build: Build) -> None:
            self._reveal(build)
            self.jenkins.update_build(
                build.job.name, build.number, building=False, inProgress=False, result=None, duration=0
            )
            build.odd, build.settling = True, False
            build.ended_matching, build.ended_after_first_start = build.job.matches, self.started

        self._each_running(pick, leave)

    @rule(pick=picks)
    def a_build_is_deleted(self, pick: int) -> None:
        self._each_done(pick, self._delete)

    @rule(pick=picks, keep=st.sampled_from([1, 2, None]))
    def builds_are_discarded_from_now_on(self, pick: int, keep: int | None) -> None:
        self._each_job(pick, lambda job: self.jenkins.keep_builds(job.name, keep))

    @rule(pick=picks, by=st.sampled_from([3, 130, 10_000]))
    def numbers_jump(self, pick: int, by: int) -> None:
        def jump(job: Job) -> None:
            self._pass(seconds=1)
            self.jenkins.set_next_build_number(job.name, self.jenkins.next_build_number(job.name) + by)

        self._each_job(pick, jump)

    @rule(pick=picks)
    def a_build_becomes_corrupt(self, pick: int) -> None:
        """For ever, so that it is as good as gone."""

        def corrupt(build: Build) -> None:
            self.jenkins.corrupt_build(build.job.name, build.number)
            build.job.corrupt.append(build.number)
            build.job.builds.remove(build)

        self._each_done(pick, corrupt)

    # ---- jobs

    def _create(self, name: str, kind: str) -> Job:
        self.jenkins.add_job(name, "pipeline" if "/mb/" in name else kind)
        job = Job(name, kind)
        self.jobs.append(job)
        return job

    def _free(self, name: str) -> bool:
        return all(job.name != name for job in self.jobs)

    @rule(name=names, kind=kinds)
    def a_job_appears(self, name: str, kind: str) -> None:
        if self._free(name):
            self._create(name, kind)

    @rule(pick=picks)
    def a_job_is_deleted(self, pick: int) -> None:
        self._each_job(pick, self._remove)

    def _remove(self, job: Job) -> None:
        self.jenkins.delete_job(job.name)
        self.hidden.discard(job.name)
        self.jobs.remove(job)

    @rule(pick=picks, beyond=st.sampled_from([None, -1, 0, 1]))
    def a_job_is_created_again(self, pick: int, beyond: int | None) -> None:
        """From #1, or quickly up to the number that the old one had reached and a little less or more."""

        def recreate(job: Job) -> None:
            reached = self.jenkins.next_build_number(job.name) - 1
            self._remove(job)
            self._pass(seconds=700)
            again = self._create(job.name, job.kind)
            if beyond is not None and reached < 50:
                for _ in range(reached + beyond):
                    build = self._start(again)
                    self._finish(build, "SUCCESS")

        self._each_job(pick, recreate)

    @rule(pick=picks, name=names)
    def a_job_gets_another_name(self, pick: int, name: str) -> None:
        self._each_job(pick, lambda job: self._rename(job, name))

    def _rename(self, job: Job, name: str) -> None:
        branch = "/mb/" in job.name or "/mb/" in name
        if self._free(name) and not branch:
            self.jenkins.rename_job(job.name, name)
            job.name, job.renamed = name, True

    @rule(pick=picks, name=names)
    def a_job_takes_the_name_of_another(self, pick: int, name: str) -> None:
        def take(job: Job) -> None:
            wanted = job.name
            others = [other for other in self.jobs if other is not job]
            self._rename(job, name)
            if others and self._free(wanted):
                self._rename(others[pick % len(others)], wanted)

        self._each_job(pick, take)

    @rule()
    def a_folder_moves(self) -> None:
        teams = ["deploy/team", "deploy/crew", "lab/team"]
        moving = next((job for job in self.jobs if job.name.rpartition("/")[0] in teams), None)
        free = next((name for name in teams if all(not job.name.startswith(f"{name}/") for job in self.jobs)), None)
        if moving is None or free is None:
            return
        before = moving.name.rpartition("/")[0]
        if before in self.hidden:
            return
        self.jenkins.delete_job(free)
        self.hidden.discard(free)
        self.jenkins.rename_job(before, free)
        self.jenkins.add_folder(before)
        moving.name, moving.renamed = f"{free}/c", True

    @rule(pick=picks, disabled=st.booleans())
    def a_job_is_disabled_or_enabled(self, pick: int, disabled: bool) -> None:
        self._each_job(pick, lambda job: self.jenkins.disable_job(job.name, disabled=disabled))

    # ---- the controller

    def _down(self) -> None:
        self.jenkins.stop()
        self.up = False

    @precondition(lambda self: self.up)
    @rule()
    def jenkins_stops(self) -> None:
        self._down()

    @precondition(lambda self: not self.up)
    @rule()
    def jenkins_starts(self) -> None:
        self.jenkins.boot()

    @precondition(lambda self: not self.up)
    @rule(interrupted=st.sampled_from(Interrupted))
    def jenkins_is_back(self, interrupted: Interrupted) -> None:
        self._back(interrupted)

    def _back(self, interrupted: Interrupted) -> None:
        self._pass(seconds=5)
        self.jenkins.restart(interrupted)
        self.up = True
        for build in self._builds():
            job = build.job
            if not build.running or self._kind(job) == "pipeline":
                continue
            if interrupted is Interrupted.VANISHED:
                build.job.builds.remove(build)
            elif interrupted is Interrupted.ABORTED:
                build.result, build.ended_at = "ABORTED", max(self.jenkins.now_ms, build.started_at + 1)
                self._note_final(build)

    @staticmethod
    def _kind(job: Job) -> str:
        return "pipeline" if "/mb/" in job.name else job.kind

    def _fail(self, path: str, _: str) -> Response | None:
        for job, which in self.failing.items():
            own = f"/{job_path(job.name)}/"
            if path.startswith(own) and (which == "all" or (path == f"{own}api/json") == (which == "list")):
                return HTMLResponse("", 504)
        return None

    @rule(pick=picks, which=st.sampled_from(["all", "list", "builds"]))
    def the_pages_of_a_job_fail(self, pick: int, which: str) -> None:
        self._each_job(pick, lambda job: self.failing.update({job: which}))

    @precondition(lambda self: self.failing)
    @rule()
    def all_pages_can_be_read(self) -> None:
        self.failing.clear()

    @rule(seconds=st.sampled_from([-900, -20, 20, 900]))
    def jenkins_clock_is_set(self, seconds: int) -> None:
        self._pass(seconds=1)
        self.jenkins.skew_ms += seconds * 1000

    @rule(name=st.sampled_from(FOLDERS))
    def a_permission_is_taken(self, name: str) -> None:
        self.jenkins.hide(name)
        self.hidden.add(name)

    @precondition(lambda self: self.hidden)
    @rule(pick=picks)
    def a_permission_is_given_back(self, pick: int) -> None:
        self._show(sorted(self.hidden)[pick % len(self.hidden)])

    def _show(self, name: str) -> None:
        self.jenkins.show(name)
        self.hidden.discard(name)

    # ---- the end

    def teardown(self) -> None:
        try:
            self._let_things_settle()
            self._check()
        finally:
            self.agent.kill()
            self.engine.close()
            self.folder.cleanup()

    def _let_things_settle(self) -> None:
        """Nothing ends any more, everything is there again, and the agent looks until every grace period is over.

        Each job starts one more build, which does not end.
        """
        if not self.up:
            self._back(Interrupted.GOES_ON)
        self.failing.clear()
        self._pass(seconds=3_700)
        for name in list(self.hidden):
            self._show(name)
        for job in self.jobs:
            self._start(job)
        for _ in range(5):
            self._pass(seconds=125)
            self.poll()
        not_owed = self._not_owed(self._meeting())
        for build in self._matching_finals():
            if build.odd and self._is_owed(build) and build not in not_owed:
                self.owed.add(build)

    def _check(self) -> None:
        reported = self.agent.reported()
        for event in reported:
            build = self.everything.get((event.number, event.started_at))
            assert build is not None, f"{event} is of no build that there ever was"
            assert build in self.allowed, f"{event} should not be there: {build}"
            assert (event.status, event.ended_at) == (STATUS[build.result], self._end(build)), f"{event} of {build}"
        times = Counter((event.number, event.started_at) for event in reported)
        told = {key for key in times if self.everything[key].job.told}
        twice = [event for event in reported if times[key := (event.number, event.started_at)] > 1 and key in told]
        assert not twice, f"reported more than once: {twice}"
        missing = [build for build in self.owed if build.key not in times]
        assert not missing, f"not reported: {[(build.job.name, build.key) for build in missing]}"
        self._check_audit(set(times))

    def _check_audit(self, reported: set[tuple[int, int]]) -> None:
        """Every number is accounted for, once, as what it is; the sums are Jenkins' own."""
        found = self.agent.audit()
        assert (found.unaccounted, found.problems) == (0, []), found
        audited = {job.job: job for job in found.jobs if not job.gone}
        not_owed = self._not_owed(self._meeting())
        assert audited.keys() == {job.name for job in self.jobs if job.matches}
        for job in self.jobs:
            if not job.matches:
                continue
            told = audited[job.name]
            assert told.given_away == self.jenkins.next_build_number(job.name) - 1
            outcomes = {n: builds.outcome for builds in told.builds for n in range(builds.first, builds.last + 1)}
            assert sorted(outcomes) == list(range(1, told.given_away + 1)), told
            for build in job.listed:
                if build in not_owed:
                    continue
                if build.key in reported:
                    assert outcomes[build.number] == Outcome.EVENT, (build, told)
                elif build.running:
                    assert outcomes[build.number] in (Outcome.RUNNING, Outcome.WAITING), (build, told)


class WorldWithANetwork(World):
    """The outbox is on a server, and the connection to it is lost now and then."""

    @rule(statement=st.integers(1, 30), after=st.booleans())
    def cut_off_at_a_statement(self, statement: int, after: bool) -> None:
        self._polling(lambda: not self.agent.poll_and_be_cut_off(statement=statement, after=after))


def test_random_stories(engines: Engines) -> None:
    world = World if engines.name == "sqlite" else WorldWithANetwork
    play_random_stories(partial(world, engines), stories=engines.stories(sqlite=250, postgresql=8), steps=STEPS)
