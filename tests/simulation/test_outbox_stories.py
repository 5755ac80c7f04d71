"""Stories of the outbox and its delivery that nobody thought of: crashes, a full disk, clocks that jump, a moody Hivel.

What is promised, and checked in every step or after every story:

* What was enqueued is there under exactly one id until it is delivered, and its id is known afterwards: the same build
  is refused, another one with the same number gets an id of its own.
* Hivel gets each deployment once in effect: under one id, with one content. Nothing is sent that is not pending, and
  nothing that this process delivered already, unless somebody replays it.
* What is sent is a revision as it was made. A delivered deployment says what Hivel has, whatever was learned since, and
  which revision that is; "not known" only where Hivel had the id before.
* A deployment that is not delivered is pending, discarded, or failed with a reason. When all troubles are over,
  everything arrives that nobody let go.
* What is discarded is kept, and not sent unless somebody replays it.
* No deployment waits longer than the longest backoff, whatever happens to the clock; twice as long, if the clock was
  set several times between two runs of the delivery. Nothing is tried in a tight loop.
* Cleaning up deletes what was delivered or discarded and nothing else; facts stay as long as a deployment of their run
  may be derived from them again; the counts are those of the rows.

At the edge of it: an id that was deleted is forgotten one day, at once if the clock is years ahead when a process
starts. From then on another build with the same number may get it, and Hivel says that it has it already.

``HIVEL_STORIES=2000 pytest tests/simulation/test_outbox_stories.py`` plays so many stories.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
import msgspec
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agent.config.settings import DeliverySettings
from agent.delivery.answers import Answer, Outcome, classify
from agent.delivery.breaker import BreakerState
from agent.delivery.dispatcher import Dispatcher
from agent.model import fact as facts
from agent.model.build import Build
from agent.model.deployment import Content, Deployment, State, event_of
from agent.model.event import encode
from agent.model.ids import build_deployment_id, reused_number_id
from agent.outbox.rows import id_hash
from agent.outbox.values import Change, Filter, Keep, OutboxError, Page
from tests.deployments import JOB, NOON, deployment
from tests.integration.support import FakeClock
from tests.simulation import played
from tests.simulation.engines import AgentKilledError, Fuse, Trouble
from tests.simulation.support import memory_folder, play_random_stories
from tests.unit.deliveries import at_once

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.outbox.interface import Outbox
    from agent.outbox.values import Claimed
    from tests.simulation.engines import Engine, Engines

STEPS = 40
HOUR = 3_600_000
DAY_MS = 86_400_000
YEARS = 5 * 365 * DAY_MS
SETTINGS = replace(DeliverySettings(), concurrency=2)
KEEP = Keep(bodies_ms=10 * DAY_MS, deployments_ms=30 * DAY_MS, ids_ms=400 * DAY_MS)
# An outage of an hour is tried so often at most. Full jitter lets the first waits be short.
PROBES_IN_AN_HOUR = 45

numbers = st.integers(1, 6)
starts = st.sampled_from([NOON, NOON + 5, NOON + 9])
points = st.integers(1, 40)
picks = st.integers(0, 1_000)

STORED = Answer(200, '{"success":true}', "application/json")
LOST = {
    "503": Answer(503),
    "429 for a week": Answer(429, retry_after="604800"),
    "refused": Answer(None, "cannot connect"),
    "time-out": Answer(None, "no answer", timed_out=True),
    "401": Answer(401, '{"message":"Unauthorized"}'),
    "404": Answer(404),
    "web page": Answer(200, "<html>", "text/html"),
    "400": Answer(400, '{"message":"Validation failed"}'),
}
STORED_UNSEEN = {
    "time-out, stored": Answer(None, "no answer", timed_out=True),
    "cut, stored": Answer(200, '{"succ', "application/json"),
    "500, stored": Answer(500),
}
THERE = [Answer(409), Answer(422, '{"error":"deployment_id already exists"}')]


@dataclass
class Hivel:
    """What it has, and how it answers. Each attempt passes the fuse of the process before and after."""

    fuse: Fuse
    clock: FakeClock
    mood: str = "up"
    poison: dict[str, str] = field(default_factory=dict)
    has: dict[str, bytes] = field(default_factory=dict)
    tries: Counter[str] = field(default_factory=Counter)  # posts, and what cannot be made into an event
    posts: list[str] = field(default_factory=list)
    forgotten: set[str] = field(default_factory=set)  # ids that the outbox does not know any more
    before_post: Callable[[Claimed], None] = lambda _: None

    async def send(self, claimed: Claimed) -> Outcome:
        """Take the event in or not, and say so or not."""
        name = claimed.deployment_id
        self.tries[name] += 1
        body = body_of(name, claimed.content)
        self.fuse()
        self.before_post(claimed)
        self.posts.append(name)
        played.now.posts += 1
        answer = self._take(name, body)
        self.fuse()
        await asyncio.sleep(0)
        return classify(answer, name, self.clock.now_ms())

    def _take(self, name: str, body: bytes) -> Answer:
        mood = self.poison.get(name, self.mood)
        if mood in LOST:
            return LOST[mood]
        if name in self.has:
            there = THERE if self.has[name] != body else [*THERE, STORED]
            return STORED_UNSEEN.get(mood, there[len(self.posts) % len(there)])
        self.has[name] = body
        return STORED_UNSEEN.get(mood, STORED)

    def reload_token(self) -> bool:
        return False


def body_of(name: str, content: Content) -> bytes:
    """What Hivel gets."""
    return encode(event_of(name, content))


class Daemon:
    """One process: its connection, its dispatcher, and what it delivered in its life."""

    def __init__(self, engine: Engine, hivel: Hivel, trouble: Trouble) -> None:
        self.process = engine.process(trouble)
        self.outbox = self.process.outbox
        self.dispatcher = Dispatcher(
            self.outbox, hivel, SETTINGS, off_loop=at_once, clock=engine.clock, rng=random.Random(1)
        )
        self.delivered: set[str] = set()


class World(RuleBasedStateMachine):
    """The outbox, its processes, Hivel, the clock, and what was promised to whom."""

    deliveries_in_an_hour = 120

    def __init__(self, engines: Engines) -> None:
        super().__init__()
        played.begin(f"the outbox on {engines.name}")
        self.folder = memory_folder()
        self.clock = FakeClock()
        self.engine = engines(Path(self.folder.name), self.clock)
        self.fuse = Fuse()
        self.trouble = Trouble(self.fuse, self.fuse)
        self.loop = asyncio.Runner()
        self.hivel = Hivel(self.fuse, self.clock, before_post=self._before_post)
        self.daemon: Daemon | None = None
        self.looking = self.engine.open()
        self.meanwhile: Callable[[], None] = lambda: None
        self.changed_in_flight: set[str] = set()
        self.tried: set[tuple[str, int]] = set()
        self.owed: set[tuple[str, int]] = set()
        self.forgotten: set[tuple[str, int]] = set()
        self.let_go: set[str] = set()  # discarded, and deleted since
        self.clock_was_set = 0  # how often, since the last run of the delivery
        self.may_wait_until = 0.0
        self.revisions: dict[tuple[str, int], Content] = {}  # by id and revision
        self.attempts = dict[str, int]()  # as counted
        self.attempts_before = Counter[str]()  # the replay, or the deletion: at least so many

    # ---- processes

    def _running(self) -> Daemon:
        if self.daemon is None:
            self.daemon = Daemon(self.engine, self.hivel, self.trouble)
        return self.daemon

    def _kill(self) -> None:
        if self.daemon is not None:
            self.daemon.process.kill()
            self.daemon = None

    def _living(self, do: Callable[[Daemon], None], *, until: int | None = None) -> bool:
        """Let the daemon do something, and be killed at that point of it; False when it could not be done."""
        daemon = self._running()
        self.fuse.set(until)
        try:
            do(daemon)
        except OutboxError:
            assert self._has_trouble(), "the outbox is in order, and still it cannot be written"
            return False
        except AgentKilledError:
            return self._died()
        except BaseExceptionGroup as group:
            assert group.subgroup(AgentKilledError) is not None, group
            return self._died()
        finally:
            self.fuse.set(None)
        return True

    def _has_trouble(self) -> bool:
        return self.trouble.full is not None or self.trouble.cut.happened

    def _died(self) -> bool:
        played.now.kills += 1
        self._kill()
        return False

    def _another_process(self, do: Callable[[Outbox], None]) -> None:
        process = self.engine.process(Trouble(full=self.trouble.full))
        try:
            do(process.outbox)
        except OutboxError:
            assert self.trouble.full
        finally:
            process.kill()

    @rule()
    def killed_between_two_steps(self) -> None:
        self._kill()

    # ---- enqueue

    def _enqueue(self, outbox: Outbox, wanted: list[Deployment]) -> None:
        """As ingest does, for each build that there is no deployment of."""
        keys = [key_of(each) for each in wanted]
        self.tried.update(keys)
        with outbox.transaction():
            known = {
                key_of(row) for state in outbox.load({w.run for w in wanted}).values() for row in state.deployments
            }
            new = list({key_of(each): each for each in wanted if key_of(each) not in known}.values())
            refused = self._store(outbox, [(final(each), each) for each in new])
            dated = [
                msgspec.structs.replace(each, deployment_id=reused_number_id(name_of(each), each.build_started_at))
                for each in new
                if refused.get(name_of(each), each.build_started_at) != each.build_started_at
            ]
            self._store(outbox, [(None, each) for each in dated])
        self.owed.update(keys)
        self.forgotten.difference_update(keys)

    def _store(self, outbox: Outbox, new: list[tuple[facts.Fact | None, Deployment]]) -> dict[str, int]:
        """What is refused has an owner, and its start is told; everything else is there."""
        owners = {name_of(each): self._owners(name_of(each)) for _, each in new}
        for _, each in new:
            owners[name_of(each)].append(each.build_started_at)
            # Of several with one name the first gets it.
            if len(owners[name_of(each)]) == 1:
                self.revisions[name_of(each), 1] = each.content
        refused = outbox.store([Change(facts=() if fact is None else (fact,), inserted=(each,)) for fact, each in new])
        taken = {name: starts[0] for name, starts in owners.items() if len(starts) > 1}
        assert refused == taken, f"refused were {refused}, and there are {taken}"
        return refused

    def _owners(self, name: str) -> list[int]:
        """The start of the build that has or had this id; none: it is free."""
        return [start for (start,) in self._rows(
            "SELECT coalesce(build_started_at, started_at) FROM deployments WHERE deployment_id = ?"
            " UNION ALL SELECT started_at FROM forgotten WHERE id_hash = ?", name, id_hash(name)
        )]  # fmt: skip

    def _deployments(self, wanted: list[tuple[int, int, bool]]) -> list[Deployment]:
        now = self.clock.now_ms()
        return [
            deployment(n, now=now, started_at=start, **({"branch": None, "problem": "no branch"} if empty else {}))
            for n, start, empty in wanted
        ]

    wanted = st.lists(st.tuples(numbers, starts, st.sampled_from([False, False, False, True])), min_size=1, max_size=5)

    @rule(wanted=wanted)
    def enqueue(self, wanted: list[tuple[int, int, bool]]) -> None:
        self._living(lambda daemon: self._enqueue(daemon.outbox, self._deployments(wanted)))

    @rule(wanted=wanted, until=points)
    def killed_while_it_enqueues(self, wanted: list[tuple[int, int, bool]], until: int) -> None:
        self._living(lambda daemon: self._enqueue(daemon.outbox, self._deployments(wanted)), until=until)

    @rule(wanted=wanted)
    def another_process_enqueues(self, wanted: list[tuple[int, int, bool]]) -> None:
        self._another_process(lambda outbox: self._enqueue(outbox, self._deployments(wanted)))

    # ---- deliver

    def _before_post(self, claimed: Claimed) -> None:
        name = claimed.deployment_id
        [(state, revision)] = self._rows("SELECT state, revision FROM deployments WHERE deployment_id = ?", name)
        changed = name in self.changed_in_flight
        assert state == "pending" or changed, f"{name} is sent although it is {state}"
        assert revision == claimed.revision or changed, f"{name} is sent as it was before revision {revision}"
        assert claimed.content == self.revisions[name, claimed.revision], f"{name} is sent as nobody said it"
        assert self.daemon is not None and name not in self.daemon.delivered, f"{name} is sent again in the same life"
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()

    def _deliver(self, *, until: int | None = None) -> None:
        before = len(self.hivel.posts)

        def run(daemon: Daemon) -> None:
            self.loop.run(daemon.dispatcher.run())

        self.changed_in_flight.clear()
        through = self._living(run, until=until)
        posts = Counter(self.hivel.posts[before:])
        assert all(times <= 2 for times in posts.values()), f"a tight loop: {posts}"
        if self.daemon is not None:
            answered = self.hivel.mood not in LOST and self.hivel.mood not in STORED_UNSEEN
            self.daemon.delivered |= {name for name in posts if answered and name not in self.hivel.poison}
        if through and not self._has_trouble():
            self._check_nobody_waits_too_long()

    def _check_nobody_waits_too_long(self) -> None:
        if self.clock_was_set > 1:
            self.may_wait_until = self.clock.monotonic() + SETTINGS.backoff_max_ms / 1000
        self.clock_was_set = 0
        if self.clock.monotonic() < self.may_wait_until:
            return
        latest = self.clock.now_ms() + SETTINGS.backoff_max_ms
        late = self._rows("SELECT * FROM deployments WHERE state = 'pending' AND next_attempt_at > ?", latest)
        assert not late, f"beyond the longest backoff: {late}"

    @rule()
    def deliver(self) -> None:
        self._deliver()

    @rule(seconds=st.sampled_from([1, 5, 60, 900]))
    def later_deliver(self, seconds: int) -> None:
        self.clock.advance(s=seconds)
        self._deliver()

    @rule(until=points)
    def killed_while_it_delivers(self, until: int) -> None:
        self._deliver(until=until)

    @rule(pick=picks, what=st.sampled_from(["replays", "rewrites", "discards"]))
    def deliver_while_another_process(self, pick: int, what: str) -> None:
        do = {
            "replays": self.another_process_replays,
            "rewrites": self.another_process_rewrites,
            "discards": self.another_process_discards,
        }[what]
        self.meanwhile = partial(do, pick)
        self._deliver()
        self.meanwhile = lambda: None

    @rule(mood=st.sampled_from(["503", "refused", "401", "web page", "429 for a week", "time-out"]))
    def an_hour_without_hivel(self, mood: str) -> None:
        before, self.hivel.mood = (self.hivel.mood, len(self.hivel.posts)), mood
        for _ in range(self.deliveries_in_an_hour):
            self.clock.advance(ms=HOUR // self.deliveries_in_an_hour)
            self._deliver()
        mood_before, posts_before = before
        posts = self.hivel.posts[posts_before:]
        # What Hivel refuses all the same opens the breaker, and what failed while others arrived does not trip it. Then
        # each that was tried waits for itself.
        refused = any(self.hivel.poison.get(name) == "400" for name in posts)
        alone = refused or self._running().dispatcher.breaker.state is BreakerState.OPEN
        most = max(Counter(posts).values(), default=0) if alone else len(posts)
        assert most <= PROBES_IN_AN_HOUR + SETTINGS.concurrency, f"{len(posts)} attempts in an hour: {Counter(posts)}"
        self.hivel.mood = mood_before

    @rule(mood=st.sampled_from(["up", "up", *LOST, *STORED_UNSEEN]))
    def hivels_mood_changes(self, mood: str) -> None:
        self.hivel.mood = mood

    @rule(number=numbers, poison=st.sampled_from(["400", "503", "500, stored", None]))
    def a_deployment_is_poisoned_or_cured(self, number: int, poison: str | None) -> None:
        name = build_deployment_id("main", JOB, number)
        self.hivel.poison.pop(name, None)
        if poison is not None:
            self.hivel.poison[name] = poison

    # ---- what facts and people change

    def _picked(self, outbox: Outbox, pick: int, *states: State) -> Deployment | None:
        rows = outbox.query(Filter(states), Page(100))
        return rows[pick % len(rows)] if rows else None

    def _rewrite(self, outbox: Outbox, row: Deployment) -> None:
        """Something was learned since; also what was missing. The plan does not rewrite what Hivel has."""
        if row.sent_revision is not None:
            return
        name, revision = name_of(row), row.revision + 1
        content = msgspec.structs.replace(
            row.content, environment=f"environment {revision}", ended_at=row.content.ended_at + 7, branch="main",
            problem=None,
        )  # fmt: skip
        self.revisions[name, revision] = content
        self.changed_in_flight.add(name)
        fresh = msgspec.structs.replace(
            row, content=content, revision=revision, state=State.PENDING, settled_at=None, reason=None,
            next_attempt_at=self.clock.now_ms() if row.state is State.FAILED else row.next_attempt_at,
        )  # fmt: skip
        assert outbox.store([Change(rewritten=(fresh,))]) == {}

    @rule(pick=picks)
    def another_process_rewrites(self, pick: int) -> None:
        def rewrite(outbox: Outbox) -> None:
            with outbox.transaction():
                if (row := self._picked(outbox, pick, State.PENDING, State.FAILED)) is not None:
                    self._rewrite(outbox, row)

        self._another_process(rewrite)

    @rule(pick=picks, until=points)
    def killed_while_it_rewrites(self, pick: int, until: int) -> None:
        def rewrite(daemon: Daemon) -> None:
            with daemon.outbox.transaction():
                if (row := self._picked(daemon.outbox, pick, State.PENDING, State.FAILED)) is not None:
                    self._rewrite(daemon.outbox, row)

        self._living(rewrite, until=until)

    @rule(pick=picks)
    def another_process_replays(self, pick: int) -> None:
        def replay(outbox: Outbox) -> None:
            row = self._picked(outbox, pick, State.DELIVERED, State.FAILED, State.DISCARDED)
            if row is not None:
                self._replay(outbox, row)

        self._another_process(replay)

    def _replay(self, outbox: Outbox, row: Deployment) -> None:
        """A failed one that makes no event is derived anew, by a mended rule."""
        if row.state is State.FAILED and row.content.problem is not None:
            self._rewrite(outbox, row)
            return
        self.revisions[name_of(row), row.revision] = row.content
        self.changed_in_flight.add(name_of(row))
        if self.daemon is not None:
            self.daemon.delivered.discard(name_of(row))
        assert outbox.replay([row]) == [True]
        assert outbox.replay([row]) == [False]

    @rule(pick=picks)
    def another_process_discards(self, pick: int) -> None:
        def discard(outbox: Outbox) -> None:
            row = self._picked(outbox, pick, State.PENDING, State.FAILED)
            if row is not None:
                self._discard(outbox, row)

        self._another_process(discard)

    def _discard(self, outbox: Outbox, row: Deployment) -> None:
        self.changed_in_flight.add(name_of(row))
        assert outbox.discard([row], "by hand") == [True]
        assert outbox.discard([row], "by hand") == [False]

    # ---- time, and cleaning up

    @rule(seconds=st.sampled_from([1, 20, 1_000, 40_000, 32 * 86_400]))
    def time_goes_by(self, seconds: int) -> None:
        self.clock.advance(s=seconds)

    @rule(ms=st.sampled_from([-YEARS, -HOUR, -20_000, 20_000, HOUR, YEARS]))
    def the_clock_is_set(self, ms: int) -> None:
        if self.clock.now_ms() + ms > 0:
            self.clock.jump(ms=ms)
            self.clock_was_set += 1

    def _clean_up(self, *, until: int | None = None) -> None:
        states = dict(self._rows("SELECT deployment_id, state FROM deployments"))
        days = dict(self._rows("SELECT id_hash, day FROM forgotten"))
        said = set(self._rows("SELECT run, started_at, word FROM facts"))

        def clean_up(daemon: Daemon) -> None:
            for _ in range(50):
                if not daemon.outbox.prune(KEEP):
                    return
            raise AssertionError("cleaning up comes to no end")

        self._living(clean_up, until=until)
        deleted = states.keys() - dict(self._rows("SELECT deployment_id, state FROM deployments")).keys()
        known = dict(self._rows("SELECT id_hash, day FROM forgotten"))
        assert all(states[name] in ("delivered", "discarded") and id_hash(name) in known for name in deleted)
        self.let_go |= {name for name in deleted if states[name] == "discarded"}
        needed = set(self._rows(
            "SELECT run, coalesce(build_started_at, started_at) FROM deployments WHERE state IN ('pending', 'failed')"
        ))  # fmt: skip
        gone = said - set(self._rows("SELECT run, started_at, word FROM facts"))
        assert not needed & {(run, started_at) for run, started_at, _ in gone}, f"facts were deleted too early: {gone}"
        forgotten = days.keys() - known.keys()
        assert all(days[name] < (self.clock.now_ms() - KEEP.ids_ms) // DAY_MS for name in forgotten)
        for key in self.tried:
            names = {name for name in self._names(key) if id_hash(name) in forgotten}
            self.hivel.forgotten |= names
            self.forgotten |= {key} if names else set()

    @rule()
    def cleaning_up(self) -> None:
        self._clean_up()

    @rule()
    def a_month_later_cleaning_up(self) -> None:
        self.clock.advance(ms=31 * DAY_MS)
        self._clean_up()

    @rule(until=points)
    def killed_while_it_cleans_up(self, until: int) -> None:
        self.clock.advance(ms=31 * DAY_MS)
        self._clean_up(until=until)

    # ---- the disk

    @rule(how=st.sampled_from(["at once", "and rolled back", "at the end"]))
    def the_disk_is_full(self, how: str) -> None:
        self._disk(how)

    @rule()
    def there_is_room_again(self) -> None:
        self._disk(None)

    def _disk(self, full: str | None) -> None:
        self.trouble.full = full

    # ---- what holds at any time

    def _rows(self, statement: str, *values: object) -> list[Any]:
        return self.engine.rows(statement, *values)

    @staticmethod
    def _names(key: tuple[str, int]) -> tuple[str, str]:
        """The ids that a build may have."""
        name, start = key
        return name, reused_number_id(name, start)

    def _known_as(self, key: tuple[str, int]) -> list[str]:
        """The ids under which the build is in the file, as a row or deleted."""
        return [name for name in self._names(key) for start in self._owners(name) if start == key[1]]

    @invariant()
    def what_was_enqueued_is_there_once(self) -> None:
        for key in self.tried:
            names = self._known_as(key)
            assert len(names) <= 1, f"{key} is there as {names}"
            assert names or key not in self.owed or key in self.forgotten, f"{key} is lost"

    @invariant()
    def hivel_has_each_build_once(self) -> None:
        forgotten = {name.partition("@")[0] for name in self.hivel.forgotten}
        builds = Counter((fields(body)["start_time"], name.partition("@")[0]) for name, body in self.hivel.has.items())
        builds = Counter({build: times for build, times in builds.items() if build[1] not in forgotten})
        assert all(times == 1 for times in builds.values()), f"doubled at Hivel: {builds}"

    @invariant()
    def what_is_delivered_is_what_hivel_has_and_what_failed_has_a_reason(self) -> None:
        for row in self.looking.query(Filter(), Page(1_000)):
            name = name_of(row)
            assert row.state is not State.FAILED or row.reason, f"{name} failed for no reason"
            assert (row.settled_at is None) == (row.state is State.PENDING)
            if row.state is not State.DELIVERED:
                continue
            assert name in self.hivel.has, f"{name} never arrived"
            assert row.sent_revision is not None and row.sent_revision <= row.revision
            if name not in self.hivel.forgotten and row.sent_revision:
                told = fields(body_of(name, row.content))
                assert told == fields(self.hivel.has[name]), f"{name} says {told}, and Hivel has something else"
                assert row.content == self.revisions[name, row.sent_revision]

    @invariant()
    def no_attempt_is_counted_twice(self) -> None:
        tries, now = self.hivel.tries, dict(self._rows("SELECT deployment_id, attempts FROM deployments"))
        for name, before in self.attempts.items():
            if now.get(name, 0) < before:
                self.attempts_before[name] += before
        self.attempts = now
        for name, attempts in now.items():
            counted = attempts + self.attempts_before[name]
            assert counted <= tries[name], f"{name} was sent {tries[name]} times, and {counted} attempts are counted"

    @invariant()
    def the_counts_are_those_of_the_rows(self) -> None:
        counted = dict(self._rows("SELECT state, count(*) FROM deployments GROUP BY state"))
        counts = self.looking.counts()
        assert {state.value: n for state in State if (n := getattr(counts, state.value))} == counted

    # ---- the end

    def teardown(self) -> None:
        try:
            self._let_things_settle()
            self._check()
        finally:
            self._kill()
            self.loop.close()
            self.looking.close()
            self.engine.close()
            self.folder.cleanup()

    def _let_things_settle(self) -> None:
        """All troubles are over; what failed is replayed, and so is what was discarded."""
        self._disk(None)
        self.hivel.mood = "up"
        self.hivel.poison.clear()
        for _ in range(3):
            for _ in range(3):
                self._deliver()
                self.clock.advance(ms=SETTINGS.backoff_max_ms)
            for row in self.looking.query(Filter((State.FAILED, State.DISCARDED)), Page(1_000)):
                self._another_process(partial(self._replay, row=row))

    def _check(self) -> None:
        left = self._rows("SELECT * FROM deployments WHERE state != 'delivered'")
        assert not left, f"did not arrive: {left}"
        for check in (
            self.what_was_enqueued_is_there_once, self.hivel_has_each_build_once,
            self.what_is_delivered_is_what_hivel_has_and_what_failed_has_a_reason,
            self.no_attempt_is_counted_twice, self.the_counts_are_those_of_the_rows,
        ):  # fmt: skip
            check()
        for key in self.owed:
            arrived = self.hivel.has.keys() | self.let_go
            assert any(name in arrived for name in self._names(key)), f"{key} never arrived"


def name_of(row: Deployment) -> str:
    """The id: everything in these stories has one."""
    assert row.deployment_id is not None
    return row.deployment_id


def key_of(row: Deployment) -> tuple[str, int]:
    """What names a build here: number and start."""
    return build_deployment_id("main", JOB, int(row.run.number)), row.build_started_at


def final(row: Deployment) -> facts.Fact:
    """The poller's final word about the build."""
    build = Build(
        url="", result="SUCCESS", started_at=row.build_started_at, ended_at=row.build_ended_at,
        controller="main", job=JOB, number=int(row.run.number),
    )  # fmt: skip
    return facts.final(row.run, build, at=row.build_ended_at)


def fields(body: bytes) -> dict[str, Any]:
    """An event as Hivel reads it."""
    event: dict[str, Any] = msgspec.json.decode(body)
    return event


class WorldWithANetwork(World):
    """The outbox is on a server. The connection to it is lost now and then, and two agents work on it."""

    deliveries_in_an_hour = 20  # each takes much longer here
    other: Daemon | None = None

    @rule()
    def it_is_the_other_agents_turn(self) -> None:
        self.daemon, self.other = self.other, self.daemon

    def _cut_off(self, do: Callable[[Daemon], None], statement: int, *, after: bool) -> bool:
        self.trouble.cut.set(statement, after=after)
        try:
            return self._living(do)
        finally:
            self.trouble.cut.set(None, after=False)

    @rule(wanted=World.wanted, statement=points, after=st.booleans())
    def cut_off_while_it_enqueues(self, wanted: list[tuple[int, int, bool]], statement: int, after: bool) -> None:
        def enqueue(daemon: Daemon) -> None:
            self._enqueue(daemon.outbox, self._deployments(wanted))

        if not self._cut_off(enqueue, statement, after=after):
            self._living(enqueue)

    @rule(statement=points, after=st.booleans())
    def cut_off_while_it_delivers(self, statement: int, after: bool) -> None:
        self.trouble.cut.set(statement, after=after)
        try:
            self._deliver()
        finally:
            self.trouble.cut.set(None, after=False)

    @rule(pick=picks, statement=points, after=st.booleans(), what=st.sampled_from(["replays", "rewrites", "discards"]))
    def cut_off_while_it(self, pick: int, statement: int, after: bool, what: str) -> None:
        def do(daemon: Daemon) -> None:
            states = {"replays": (State.DELIVERED, State.FAILED, State.DISCARDED)}.get(
                what, (State.PENDING, State.FAILED)
            )
            with daemon.outbox.transaction():
                if (row := self._picked(daemon.outbox, pick, *states)) is None:
                    return
                if what == "rewrites":
                    self._rewrite(daemon.outbox, row)
                elif what == "replays":
                    self._replay(daemon.outbox, row)
                else:
                    self._discard(daemon.outbox, row)

        self._cut_off(do, statement, after=after)

    @rule(statement=points, after=st.booleans())
    def cut_off_while_it_cleans_up(self, statement: int, after: bool) -> None:
        self.clock.advance(ms=31 * DAY_MS)
        self.trouble.cut.set(statement, after=after)
        try:
            self._clean_up()
        finally:
            self.trouble.cut.set(None, after=False)

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            if self.other is not None:
                self.other.process.kill()


def test_random_stories_of_the_outbox(engines: Engines) -> None:
    world = World if engines.name == "sqlite" else WorldWithANetwork
    play_random_stories(partial(world, engines), stories=engines.stories(sqlite=200, postgresql=6), steps=STEPS)
