"""Stories of builds that report themselves: reports, polls, deliveries and a process that dies at any statement.

What is promised, and checked at the end of every story:

* every deployment is at Hivel exactly once: each environment that a build reported, each stage, and each build that
  reported nothing in a job that a rule makes a deployment;
* nothing else is there: no build of a job without a rule that said nothing, no second id for the same thing;
* what the poller confirmed has the build's result and times, whatever is reported afterwards.

At the edges of it:

* A report of a whole build comes while the build runs, or a little later; one of a stage while it runs.
* A build says when it started once its event went out before the poller's word, or ten minutes after it reported: an
  undated report might as well be of a job that was created again.
* A job that is created again is so after more than ten minutes, which is how far two clocks may be apart.

``HIVEL_STORIES=2000 pytest tests/simulation/test_report_stories.py`` plays so many stories.
"""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
import msgspec
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from agent.config.credentials import Token
from agent.config.settings import JenkinsSettings
from agent.model import event as events
from agent.model.deployment import Scope, State, event_of
from agent.outbox.values import OutboxError
from agent.sandbox.jenkins import LocalJenkins
from agent.sources.jenkins.client import JenkinsClient
from agent.sources.jenkins.poller import Poller
from agent.sources.jenkins.wanted import ASKED_AT_ONCE
from agent.sources.reports.accept import Reports
from agent.sources.reports.inbox import take_inbox
from tests.deployments import rows
from tests.integration.reporting import deliver, ingest_of, settings_of
from tests.integration.support import FakeClock
from tests.integration.support import rule as deployments_in
from tests.simulation import played
from tests.simulation.engines import AgentKilledError, Trouble
from tests.simulation.support import REPO, InProcess, memory_folder, play_random_stories

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.model.deployment import Deployment
    from agent.outbox.interface import Outbox
    from tests.simulation import engines as processes
    from tests.simulation.engines import Engine, Engines

STEPS = 40
HOUR = 3_600_000
JOBS = ("deploy/a", "lab/a")
ENVIRONMENTS = ("eu", "us")
STATUS = {"SUCCESS": "success", "UNSTABLE": "failed", "FAILURE": "failed", "ABORTED": "canceled"}

picks = st.sampled_from([0, 0, 0, 1, 1, 2, 3])  # the newest ones most of all
results = st.sampled_from(list(STATUS))
ACTS = (
    *(("whole", environment, door) for environment in ENVIRONMENTS for door in ("emit", "intake")),
    ("stage", "eu", "emit"), ("stage", "us", "intake"), ("end",), ("end",), ("end",), ("poll",), ("poll",), ("poll",),
    ("release",), ("deliver",), ("create",),
)  # fmt: skip
statements = st.one_of(st.none(), st.none(), st.integers(1, 25))


@dataclass(eq=False)
class Build:
    """What really is the case with a build. ``tag``: its reports name it as the image, so that events tell it."""

    tag: str
    job: str
    number: int
    started_at: int
    several: bool  # it names environments
    deploys: bool  # by a rule
    result: str | None = None
    ended_at: int = 0
    there: bool = True
    environments: set[str] = field(default_factory=set)
    stages: set[tuple[str, str]] = field(default_factory=set)
    reported_whole: bool = False
    went_out_early: bool = False
    reported_at: int | None = None

    @property
    def running(self) -> bool:
        return self.there and self.result is None

    def expected(self) -> int | None:
        """How many events there have to be; None: one or none."""
        stages = len(self.stages)
        if self.reported_whole:
            return stages + max(1, len(self.environments))
        if stages:
            return stages
        if not self.deploys or self.result is None:
            return 0
        return 1 if self.there else None


class Process:
    """The agent without its loops: what it does is called, and may be its last."""

    def __init__(self, engine: Engine, jenkins: LocalJenkins) -> None:
        self._engine = engine
        self._clock = engine.clock
        self._jenkins = jenkins
        controller = JenkinsSettings(
            name="main", url="http://main.jenkins.test/", username=jenkins.username, token=Token(jenkins.token),
            poll_interval_ms=15_000, since="now", timeout_ms=5_000, concurrency=1,
        )  # fmt: skip
        self._settings = settings_of(Path("outbox.db"), controller, rules=(deployments_in("deploy/**"),))
        self._trouble = Trouble()
        self.at_request: Callable[[], None] = lambda: None
        self.hivel: dict[str, dict[str, Any]] = {}
        self.asked_for_all = True
        self._process: processes.Process | None = None

    def _start(self) -> Outbox:
        if self._process is None:
            self._process = self._engine.process(self._trouble)
            self._ingest = ingest_of(self._settings, self._process.outbox)
            self.reports = Reports(self._settings, self._ingest)
            [controller] = self._settings.controllers
            self._client = JenkinsClient(controller)
            mounted = InProcess(self._jenkins.app, self._before_request)
            self._client._transport.session.mount(controller.url, mounted)
            take = partial(take_inbox, self.reports)
            self._poller = Poller(controller, self._client, self._ingest, take_reports=take)
        return self._process.outbox

    def _before_request(self) -> None:
        self.at_request()

    def kill(self) -> None:
        """End the process: what was not committed is gone."""
        if self._process is not None:
            self._client.close()
            self._process.kill()
            self._process = None

    def do(self, what: Callable[[], object], statement: int | None, *, after: bool) -> bool:
        """Do something, and die before or after the n-th statement; False: it died."""
        self._start()
        fuse = self._trouble.after if after else self._trouble.before
        fuse.set(statement)
        try:
            what()
        except AgentKilledError:
            played.now.kills += 1
            self.kill()
            return False
        finally:
            fuse.set(None)
        return True

    def be_cut_off(self, what: Callable[[], object], statement: int, *, after: bool) -> bool:
        """Do something, and lose the connection before or after the n-th statement; False: it could not be done."""
        self._start()
        cut = self._trouble.cut
        cut.set(statement, after=after)
        try:
            what()
        except OutboxError:
            assert cut.happened
            return False
        finally:
            cut.set(None, after=False)
        return True

    def poll(self) -> bool:
        """Look once, after what waits in the inbox; whether Jenkins could be asked everything."""
        take_inbox(self.reports)
        [controller] = self._settings.controllers
        self.asked_for_all = len(self._start().wanted_builds(controller.name)) <= ASKED_AT_ONCE
        report = self._poller.poll()
        return report.complete and not report.problems

    def deliver(self) -> None:
        """Everything that is due; Hivel keeps what it got first under an id."""
        outbox = self._start()
        for due in outbox.claim(1_000):
            sent = events.encode(event_of(due.deployment_id, due.content))
            self.hivel.setdefault(due.deployment_id, msgspec.json.decode(sent))
            deliver(outbox, due)

    def take_stored(self) -> None:
        self._start()
        take_inbox(self.reports)

    def report(self, report: dict[str, Any]) -> None:
        """Through the intake."""
        self.reports.take(report, source="intake", at=self._clock.now_ms())

    def release(self) -> None:
        self._start()
        self._ingest.release()

    def emit(self, report: dict[str, Any]) -> None:
        """Another process stores a report."""
        with closing(self._engine.open()) as outbox:
            outbox.add_report(msgspec.json.encode(report).decode())

    def rows(self) -> list[Deployment]:
        """As another process sees them."""
        with closing(self._engine.open()) as outbox:
            return rows(outbox)


class World(RuleBasedStateMachine):
    """Jenkins, the agent, Hivel, and the truth about all three."""

    def __init__(self, engines: Engines) -> None:
        super().__init__()
        played.begin(f"reports on {engines.name}")
        self.folder = memory_folder()
        self.clock = FakeClock()
        self.engine = engines(Path(self.folder.name), self.clock)
        self.jenkins = LocalJenkins(now_ms=self.clock.now_ms)
        self.up = True
        self.builds: list[Build] = []
        self.confirmed: set[Build] = set()

    @initialize()
    def once(self) -> None:
        for job in JOBS:
            self.jenkins.add_job(job)
        self.process = Process(self.engine, self.jenkins)
        self._poll(None, after=False)
        for job, several in ((JOBS[0], True), (JOBS[1], False)):
            self.a_build_starts(job, several, checkout=True)

    # ---- builds

    def _pick(self, pick: int, builds: list[Build]) -> Build | None:
        return builds[-1 - pick % len(builds)] if builds else None

    @rule(job=st.sampled_from(JOBS), several=st.booleans(), checkout=st.booleans())
    def a_build_starts(self, job: str, several: bool, checkout: bool) -> None:
        self.clock.advance(s=1)
        number = self.jenkins.start_build(job, repo=REPO if checkout else None)
        tag = f"build-{len(self.builds)}"
        self.builds.append(Build(tag, job, number, self.clock.now_ms(), several, job.startswith("deploy/")))

    @rule(pick=picks, result=results)
    def a_build_ends(self, pick: int, result: str) -> None:
        build = self._pick(pick, [build for build in self.builds if build.running])
        if build:
            self.clock.advance(s=2)
            self.jenkins.finish_build(build.job, build.number, result)
            build.result, build.ended_at = result, self.clock.now_ms()

    @rule(seconds=st.sampled_from([1, 20, 400, 1_500]))
    def time_goes_by(self, seconds: int) -> None:
        self.clock.advance(s=seconds)

    @rule(job=st.sampled_from(JOBS))
    def a_job_is_created_again(self, job: str) -> None:
        if not self.up:
            return
        self.jenkins.delete_job(job)
        for build in self.builds:
            build.there = build.there and build.job != job
        self.clock.advance(s=700)
        self.jenkins.add_job(job)
        self._poll(None, after=False)

    @rule()
    def jenkins_stops_or_starts(self) -> None:
        if self.up:
            self.jenkins.stop()
        else:
            self.jenkins.boot()
            self.jenkins.restart()
        self.up = not self.up

    # ---- reports

    @rule(
        pick=picks, environment=st.sampled_from(ENVIRONMENTS), status=results, dated=st.booleans(),
        repo=st.sampled_from([True, True, False]), door=st.sampled_from(["emit", "intake"]), statement=statements,
        after=st.booleans(),
    )  # fmt: skip
    def a_build_reports(
        self, pick: int, environment: str, status: str, dated: bool, repo: bool, door: str, statement: int | None,
        after: bool,
    ) -> None:  # fmt: skip
        now = self.clock.now_ms()
        build = self._pick(
            pick,
            [build for build in self.builds if build.running or (build.there and now - build.ended_at < 60_000)],
        )
        if build is None:
            return
        report = self._report(build, status)
        if repo:
            report |= {"repo_url": REPO, "branch": "main"}
        if dated or build.went_out_early or (build.reported_at and now - build.reported_at > 500_000):
            report["start_time"] = build.started_at
        if build.several and not self._is_too_late(build, environment):
            report["environment"] = environment
            build.environments.add(environment)
        build.reported_whole, build.reported_at = True, build.reported_at or now
        self._through(door, report, statement, after=after)

    @rule(
        pick=picks, environment=st.sampled_from(ENVIRONMENTS), stage=st.sampled_from(["one", "two"]), status=results,
        door=st.sampled_from(["emit", "intake"]), statement=statements, after=st.booleans(),
    )  # fmt: skip
    def a_stage_reports(
        self, pick: int, environment: str, stage: str, status: str, door: str, statement: int | None, after: bool
    ) -> None:
        build = self._pick(pick, [build for build in self.builds if build.running])
        if build is None:
            return
        build.stages.add((environment, stage))
        report = self._report(build, status) | {
            "stage": stage, "environment": environment, "repo_url": REPO, "branch": "main",
            "start_time": build.started_at,
        }  # fmt: skip
        self._through(door, report, statement, after=after)

    @rule(
        job=st.sampled_from(JOBS), several=st.booleans(), checkout=st.sampled_from([True, True, False]), result=results,
        acts=st.lists(st.sampled_from(ACTS), min_size=2, max_size=9), dated=st.booleans(),
    )  # fmt: skip
    def a_build_deploys(
        self, job: str, several: bool, checkout: bool, result: str, acts: list[tuple[str, ...]], dated: bool
    ) -> None:
        """From its start, with what matters for it alone."""
        self.a_build_starts(job, several, checkout=checkout)
        for act in acts:
            match act:
                case ("whole", environment, door):
                    self.a_build_reports(0, environment, "SUCCESS", dated, checkout, door, None, after=False)
                case ("stage", environment, door):
                    self.a_stage_reports(0, environment, "one", "SUCCESS", door, None, after=False)
                case ("end",):
                    self.a_build_ends(0, result)
                case ("poll",):
                    self.a_poll(None, after=False)
                case ("release",):
                    self.an_hour_goes_by_and_what_waited_goes_out(None, after=False)
                case ("deliver",):
                    self.a_delivery(None, after=False)
                case ("create",):
                    self.a_job_is_created_again(job)

    def _report(self, build: Build, status: str) -> dict[str, Any]:
        return {
            "job": build.job, "build_number": build.number, "build_url": self._url(build), "status": status,
            "image": build.tag,
        }  # fmt: skip

    def _is_too_late(self, build: Build, environment: str) -> bool:
        """The poller may have been first; then there is one event, and it has a name already."""
        return build.result is not None and bool(build.environments - {environment} or self._polled(build))

    def _polled(self, build: Build) -> bool:
        return any(row.known and self._build_of(row) is build for row in self.process.rows())

    def _url(self, build: Build) -> str:
        return f"http://main.jenkins.test/job/{build.job.replace('/', '/job/')}/{build.number}/"

    def _through(self, door: str, report: dict[str, Any], statement: int | None, *, after: bool) -> None:
        if door == "emit":
            self.process.emit(report)
        elif not self.process.do(lambda: self.process.report(report), statement, after=after):
            self.process.emit(report)  # whether it was stored is not known: the build tries the other door

    @rule(statement=statements, after=st.booleans())
    def stored_reports_are_taken(self, statement: int | None, after: bool) -> None:
        self.process.do(self.process.take_stored, statement, after=after)

    # ---- the agent

    def _poll(self, statement: int | None, *, after: bool) -> None:
        played.now.polls += 1
        undisturbed = [False]

        def poll() -> None:
            undisturbed[0] = self.process.poll() and self.process.asked_for_all

        if not self.process.do(poll, statement, after=after) or not undisturbed[0] or not self.up:
            return
        for build in self.builds:
            if build.there and build.result:
                self._check_confirmed(build)

    def _check_confirmed(self, build: Build) -> None:
        """Right after a poll: nothing of a final build waits any more, but for what came while it looked.

        Of builds that are not found by themselves a poll asks for ten, and the next one for the others.
        """
        for row in self.process.rows():
            if self._build_of(row) is not build or row.scope is Scope.STAGE:
                continue
            assert row.state is not State.HELD, f"{row} waits although the poller saw {build}"
            if not build.went_out_early and row.state is State.PENDING:
                self.confirmed.add(build)

    @rule(statement=statements, after=st.booleans())
    def a_poll(self, statement: int | None, after: bool) -> None:
        self.clock.advance(s=15)
        self._poll(statement, after=after)

    @rule(request=st.integers(1, 4), pick=picks, environment=st.sampled_from(ENVIRONMENTS))
    def a_build_ends_and_reports_during_a_poll(self, request: int, pick: int, environment: str) -> None:
        build = self._pick(pick, [build for build in self.builds if build.running])
        left = [request]

        def end() -> None:
            left[0] -= 1
            if left[0] == 0 and build is not None:
                report = self._report(build, "SUCCESS") | {"repo_url": REPO, "branch": "main"}
                report["start_time"] = build.started_at
                if build.several:
                    report["environment"] = environment
                    build.environments.add(environment)
                build.reported_whole = True
                self.process.emit(report)
                self.jenkins.finish_build(build.job, build.number, "FAILURE")
                build.result, build.ended_at = "FAILURE", self.clock.now_ms()

        self.process.at_request = end
        try:
            self.clock.advance(s=15)
            self.process.do(self.process.poll, None, after=False)
        finally:
            self.process.at_request = lambda: None

    @rule(statement=statements, after=st.booleans())
    def an_hour_goes_by_and_what_waited_goes_out(self, statement: int | None, after: bool) -> None:
        self.process.do(self.process.take_stored, None, after=False)
        held = {self._build_of(row) for row in self.process.rows() if row.state is State.HELD}
        self.clock.advance(ms=HOUR)
        self.process.do(self.process.release, statement, after=after)
        for build in held:
            if build is not None:
                build.went_out_early = True

    @rule(statement=statements, after=st.booleans())
    def a_delivery(self, statement: int | None, after: bool) -> None:
        self.process.do(self.process.deliver, statement, after=after)

    @rule()
    def a_crash(self) -> None:
        self.process.kill()

    # ---- which build an event is of

    def _build_of(self, row: Deployment) -> Build | None:
        return self._find(row.content.image, int(row.run.number), row.build_started_at)

    def _build_of_event(self, event: dict[str, Any]) -> Build | None:
        from agent.model.times import parse_moment

        return self._find(event.get("image"), int(event["build_number"]), parse_moment(event["start_time"]))

    def _find(self, tag: str | None, number: int, started_at: int) -> Build | None:
        for build in self.builds:
            if build.tag == tag or (tag is None and (build.number, build.started_at) == (number, started_at)):
                return build
        return None

    # ---- the end

    def teardown(self) -> None:
        try:
            self._settle()
            self._check()
        finally:
            self.process.kill()
            self.engine.close()
            self.folder.cleanup()

    def _settle(self) -> None:
        """Everything works again for long enough; each job starts one more build that does not end."""
        if not self.up:
            self.jenkins_stops_or_starts()
        for job in JOBS:
            self.jenkins.start_build(job, repo=REPO)
        for _ in range(3):
            self.clock.advance(s=400)
            self._poll(None, after=False)
            self.process.do(self.process.take_stored, None, after=False)
            self.process.do(self.process.deliver, None, after=False)
        self.clock.advance(ms=2 * HOUR)
        self.process.do(self.process.release, None, after=False)
        self.process.do(self.process.deliver, None, after=False)

    def _check(self) -> None:
        rows = self.process.rows()
        assert {row.state for row in rows} <= {State.DELIVERED, State.FAILED}, rows
        failed = [row for row in rows if row.state is State.FAILED]
        for row in failed:
            assert "no repo_url" in (row.reason or ""), row
        found = Counter(self._build_of_event(event) for event in self.hivel.values())
        found.update(self._build_of(row) for row in failed)
        assert found[None] == 0, f"of no build that there ever was: {self.hivel} {failed}"
        for build in self.builds:
            expected = build.expected()
            mine = {name: event for name, event in self.hivel.items() if self._build_of_event(event) is build}
            assert found[build] == expected or (expected is None and found[build] < 2), f"{build}: {mine} {failed}"
            environments = Counter(event["environment"] for event in mine.values())
            if not build.stages:
                assert max(environments.values(), default=1) == 1, f"{build}: {mine}"
            if build in self.confirmed:
                self._check_final(build, mine)

    def _check_final(self, build: Build, mine: dict[str, dict[str, Any]]) -> None:
        from agent.model.times import rfc3339

        whole = [event for event in mine.values() if event["end_time"] == rfc3339(build.ended_at)]
        assert whole, f"{build}: {mine}"
        for event in whole:
            assert event["status"] == STATUS[build.result or ""], f"{build}: {event}"
            assert event["start_time"] == rfc3339(build.started_at), f"{build}: {event}"

    @property
    def hivel(self) -> dict[str, dict[str, Any]]:
        return self.process.hivel


class WorldWithANetwork(World):
    """The outbox is on a server, and the connection to it is lost now and then."""

    @rule(
        what=st.sampled_from(["poll", "take_stored", "release", "deliver"]), statement=st.integers(1, 25),
        after=st.booleans(),
    )  # fmt: skip
    def cut_off(self, what: str, statement: int, after: bool) -> None:
        self.process.be_cut_off(getattr(self.process, what), statement, after=after)

    @rule(pick=picks, environment=st.sampled_from(ENVIRONMENTS), statement=st.integers(1, 25), after=st.booleans())
    def a_build_reports_and_the_intake_is_cut_off(
        self, pick: int, environment: str, statement: int, after: bool
    ) -> None:
        self._door_is_cut_off = (statement, after)
        try:
            self.a_build_reports(pick, environment, "SUCCESS", True, True, "intake", None, after=False)
        finally:
            self._door_is_cut_off = None

    _door_is_cut_off: tuple[int, bool] | None = None

    def _through(self, door: str, report: dict[str, Any], statement: int | None, *, after: bool) -> None:
        if self._door_is_cut_off is None:
            super()._through(door, report, statement, after=after)
            return
        at, afterwards = self._door_is_cut_off
        if not self.process.be_cut_off(lambda: self.process.report(report), at, after=afterwards):
            self.process.emit(report)


def test_random_stories_of_reports(engines: Engines) -> None:
    world = World if engines.name == "sqlite" else WorldWithANetwork
    play_random_stories(partial(world, engines), stories=engines.stories(sqlite=150, postgresql=5), steps=STEPS)
