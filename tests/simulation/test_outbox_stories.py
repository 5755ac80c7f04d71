"""Stories of the outbox and its delivery that nobody thought of: crashes, a full disk, clocks that jump, a moody Hivel.

What is promised, and checked in every step or after every story:

* What was enqueued is there under exactly one id until it is delivered, and its id is known afterwards: the same build
  is refused, another one with the same number gets an id of its own.
* Hivel gets each event once in effect: under one id, with one content. Nothing is sent that is not pending, and nothing
  that this process delivered already, unless somebody replays it.
* An event that is not delivered is pending, or failed with a reason. When all troubles are over, every event arrives.
* No event waits longer than the longest backoff, whatever happens to the clock; nothing is tried in a tight loop.
* Retention deletes what was delivered and nothing else; the counts are those of the rows.

At the edge of it: an id that was deleted is forgotten one day, at once if the clock is years ahead when a process
starts. From then on another build with the same number may get it, and Hivel says that it has it already.

``HIVEL_STORIES=2000 pytest tests/simulation/test_outbox_stories.py`` plays so many stories.
"""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
import msgspec
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agent.config.settings import DeliverySettings
from agent.delivery.answers import Answer
from agent.delivery.dispatcher import Drain
from agent.model import event as events
from agent.outbox.values import OutboxError
from agent.outbox.sqlite.retention import DAY_MS, Retention
from agent.outbox.sqlite.store import COUNTS, Outbox, State, id_hash
from tests.integration.support import NOON, FakeClock
from tests.integration.test_outbox import entry
from tests.simulation import played
from tests.simulation.support import (
    AgentKilledError,
    FragileConnection,
    Fuse,
    empty_outbox,
    memory_folder,
    play_random_stories,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.outbox.sqlite.store import Entry

STORIES = int(os.environ.get("HIVEL_STORIES", "200"))
STEPS = 40
HOUR = 3_600_000
YEARS = 5 * 365 * DAY_MS
SETTINGS = replace(DeliverySettings(), concurrency=2)
KEEP_DELIVERED, KEEP_IDS = 30 * DAY_MS, 400 * DAY_MS
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
THERE = [Answer(409), Answer(422, '{"error":"deployment_id already exists"}'), STORED]


@dataclass
class Hivel:
    """What it has, and how it answers. Each POST passes the fuse of the process before and after."""

    fuse: Fuse
    mood: str = "up"
    poison: dict[str, str] = field(default_factory=dict)
    has: dict[str, bytes] = field(default_factory=dict)
    posts: list[str] = field(default_factory=list)
    forgotten: set[str] = field(default_factory=set)  # ids that the outbox does not know any more
    before_post: Callable[[str], None] = lambda _: None

    async def post(self, body: bytes, *, lane: int = 0) -> Answer:
        """Take the event in or not, and say so or not."""
        name = events.decode(body).deployment_id
        self.fuse()
        self.before_post(name)
        self.posts.append(name)
        played.posts += 1
        answer = self._take(name, body)
        self.fuse()
        await asyncio.sleep(0)
        return answer

    def _take(self, name: str, body: bytes) -> Answer:
        mood = self.poison.get(name, self.mood)
        if mood in LOST:
            return LOST[mood]
        if name in self.has:
            assert self.has[name] == body or name in self.forgotten, f"{name} came with another content"
            return STORED_UNSEEN.get(mood, THERE[len(self.posts) % len(THERE)])
        self.has[name] = body
        return STORED_UNSEEN.get(mood, STORED)

    def reload_token(self) -> bool:
        return False


class UnreliableConnection(FragileConnection):
    """On a disk that is full nothing can be written; SQLite finds out early or late, and may give up everything."""

    full: str | None = None

    def _run(self, run: Callable[..., sqlite3.Cursor], *args: Any) -> sqlite3.Cursor:
        verb = args[0].split(maxsplit=1)[0]
        if self.full and verb in (("COMMIT",) if self.full == "at the end" else ("INSERT", "UPDATE", "DELETE")):
            self._before()
            if self.full == "and rolled back" and self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        return super()._run(run, *args)


class Daemon:
    """One process: its connection, its drain, its retention, and what it delivered in its life."""

    def __init__(self, path: Path, clock: FakeClock, hivel: Hivel, fuse: Fuse, full: str | None) -> None:
        self.outbox = Outbox(path, clock)
        self.outbox.connection.execute("PRAGMA synchronous = OFF")  # processes die here, no computers
        self.real = self.outbox.connection
        self.unreliable = UnreliableConnection(self.real, fuse, fuse)
        self.unreliable.full = full
        self.outbox.connection = self.unreliable  # type: ignore[assignment]
        self.drain = Drain(self.outbox, hivel, SETTINGS, random.Random(1))
        self.retention = Retention(self.outbox, KEEP_DELIVERED, KEEP_IDS)
        self.delivered: set[str] = set()


class World(RuleBasedStateMachine):
    """The outbox, its processes, Hivel, the clock, and what was promised to whom."""

    def __init__(self) -> None:
        super().__init__()
        played.outbox_stories += 1
        self.folder = memory_folder()
        self.path = Path(self.folder.name) / "outbox.db"
        self.path.write_bytes(empty_outbox())
        self.clock = FakeClock()
        self.fuse = Fuse()
        self.loop = asyncio.Runner()
        self.hivel = Hivel(self.fuse, before_post=self._before_post)
        self.full: str | None = None
        self.daemon: Daemon | None = None
        self.observer = sqlite3.connect(self.path, isolation_level=None)
        self.meanwhile: Callable[[], None] = lambda: None
        self.tried: dict[tuple[str, int], Entry] = {}
        self.owed: set[tuple[str, int]] = set()
        self.forgotten: set[tuple[str, int]] = set()

    # ---- processes

    def _running(self) -> Daemon:
        if self.daemon is None:
            self.daemon = Daemon(self.path, self.clock, self.hivel, self.fuse, self.full)
        return self.daemon

    def _kill(self) -> None:
        if self.daemon is not None:
            # As the next process would; cursors in the frames of the exception may keep the connection from closing.
            if self.daemon.real.in_transaction:
                self.daemon.real.execute("ROLLBACK")
            self.daemon.real.close()
            self.daemon = None

    def _living(self, do: Callable[[Daemon], None], *, until: int | None = None) -> bool:
        """Let the daemon do something, and be killed at that point of it; False when it could not be done."""
        daemon = self._running()
        self.fuse.set(until)
        try:
            do(daemon)
        except OutboxError:
            assert self.full, "the outbox is in order, and still it cannot be written"
            return False
        except AgentKilledError:
            return self._died()
        except BaseExceptionGroup as group:
            assert group.subgroup(AgentKilledError) is not None, group
            return self._died()
        finally:
            self.fuse.set(None)
        return True

    def _died(self) -> bool:
        played.kills += 1
        self._kill()
        return False

    def _another_process(self, do: Callable[[Outbox], None]) -> None:
        with Outbox(self.path, self.clock) as outbox:
            unreliable = UnreliableConnection(outbox.connection, Fuse(), Fuse())
            unreliable.full = self.full
            outbox.connection.execute("PRAGMA synchronous = OFF")
            outbox.connection = unreliable  # type: ignore[assignment]
            try:
                do(outbox)
            except OutboxError:
                assert self.full

    @rule()
    def killed_between_two_steps(self) -> None:
        self._kill()

    # ---- enqueue

    def _enqueue(self, outbox: Outbox, wanted: list[Entry]) -> None:
        for one in wanted:
            self.tried.setdefault((one.deployment_id, one.started_at), one)
        known = {key for key in self.tried if self._known_as(key)}
        added = outbox.enqueue(wanted)
        keys = [(one.deployment_id, one.started_at) for one in wanted]
        fresh = len({key for key in keys if key not in known})
        assert len(added) == fresh, f"{keys} were enqueued as {[one.deployment_id for one in added]}, known: {known}"
        self.owed.update(keys)
        self.forgotten.difference_update(keys)

    @staticmethod
    def _entries(wanted: list[tuple[int, int, bool]]) -> list[Entry]:
        return [entry(n, started_at=start, reason="no branch" if empty else None) for n, start, empty in wanted]

    wanted = st.lists(st.tuples(numbers, starts, st.sampled_from([False, False, False, True])), min_size=1, max_size=5)

    @rule(wanted=wanted)
    def enqueue(self, wanted: list[tuple[int, int, bool]]) -> None:
        self._living(lambda daemon: self._enqueue(daemon.outbox, self._entries(wanted)))

    @rule(wanted=wanted, until=points)
    def killed_while_it_enqueues(self, wanted: list[tuple[int, int, bool]], until: int) -> None:
        self._living(lambda daemon: self._enqueue(daemon.outbox, self._entries(wanted)), until=until)

    @rule(wanted=wanted)
    def another_process_enqueues(self, wanted: list[tuple[int, int, bool]]) -> None:
        self._another_process(lambda outbox: self._enqueue(outbox, self._entries(wanted)))

    # ---- deliver

    def _before_post(self, name: str) -> None:
        [(state,)] = self._rows("SELECT state FROM events WHERE deployment_id = ?", name)
        assert state == "pending", f"{name} is sent although it is {state}"
        assert self.daemon is not None and name not in self.daemon.delivered, f"{name} is sent again in the same life"
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()

    def _deliver(self, *, until: int | None = None) -> None:
        before = len(self.hivel.posts)

        def run(daemon: Daemon) -> None:
            self.loop.run(daemon.drain.run())

        through = self._living(run, until=until)
        posts = Counter(self.hivel.posts[before:])
        assert all(times <= 2 for times in posts.values()), f"a tight loop: {posts}"
        if self.daemon is not None:
            answered = self.hivel.mood not in LOST and self.hivel.mood not in STORED_UNSEEN
            self.daemon.delivered |= {name for name in posts if answered and name not in self.hivel.poison}
        if through and not self.full:
            self._check_nobody_waits_too_long()

    def _check_nobody_waits_too_long(self) -> None:
        latest = self.clock.now_ms() + SETTINGS.backoff_max_ms
        late = self._rows("SELECT * FROM events WHERE state = 'pending' AND next_attempt_at > ?", latest)
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

    @rule(pick=picks)
    def deliver_while_another_process_replays(self, pick: int) -> None:
        self.meanwhile = lambda: self.another_process_replays(pick)
        self._deliver()
        self.meanwhile = lambda: None

    @rule(mood=st.sampled_from(["503", "refused", "401", "web page", "429 for a week", "time-out"]))
    def an_hour_without_hivel(self, mood: str) -> None:
        before, self.hivel.mood = (self.hivel.mood, len(self.hivel.posts)), mood
        for _ in range(120):
            self.clock.advance(s=30)
            self._deliver()
        mood_before, posts_before = before
        posts = self.hivel.posts[posts_before:]
        assert len(posts) <= PROBES_IN_AN_HOUR + SETTINGS.concurrency, f"{len(posts)} attempts in an hour"
        self.hivel.mood = mood_before

    @rule(mood=st.sampled_from(["up", "up", *LOST, *STORED_UNSEEN]))
    def hivels_mood_changes(self, mood: str) -> None:
        self.hivel.mood = mood

    @rule(number=numbers, poison=st.sampled_from(["400", "503", "500, stored", None]))
    def an_event_is_poisoned_or_cured(self, number: int, poison: str | None) -> None:
        name = entry(number).deployment_id
        self.hivel.poison.pop(name, None)
        if poison is not None:
            self.hivel.poison[name] = poison

    # ---- replay

    @rule(pick=picks)
    def another_process_replays(self, pick: int) -> None:
        def replay(outbox: Outbox) -> None:
            rows = outbox.rows(None, 100)
            if rows:
                row = rows[pick % len(rows)]
                event = None if row.payload else self._event_of(row.deployment_id)
                assert outbox.replay(row, event)
                if self.daemon is not None and row.state is State.DELIVERED:
                    self.daemon.delivered.discard(row.deployment_id)

        self._another_process(replay)

    def _event_of(self, name: str) -> events.DeploymentEvent:
        """What is derived by a mended rule from an event that had been underivable."""
        number = int(name.partition("#")[2].partition("@")[0])
        [(start,)] = self._rows("SELECT started_at FROM events WHERE deployment_id = ?", name)
        event = entry(number, started_at=start).event
        assert event is not None
        return msgspec.structs.replace(event, deployment_id=name)

    # ---- time, and cleaning up

    @rule(seconds=st.sampled_from([1, 20, 1_000, 40_000, 32 * 86_400]))
    def time_goes_by(self, seconds: int) -> None:
        self.clock.advance(s=seconds)

    @rule(ms=st.sampled_from([-YEARS, -HOUR, -20_000, 20_000, HOUR, YEARS]))
    def the_clock_is_set(self, ms: int) -> None:
        if self.clock.now_ms() + ms > 0:
            self.clock.jump(ms=ms)

    def _retain(self, *, until: int | None = None) -> None:
        states = dict(self._rows("SELECT deployment_id, state FROM events"))
        days = dict(self._rows("SELECT id_hash, day FROM pruned"))

        def clean_up(daemon: Daemon) -> None:
            for _ in range(50):
                if not daemon.retention.step():
                    return
            raise AssertionError("retention comes to no end")

        self._living(clean_up, until=until)
        deleted = states.keys() - dict(self._rows("SELECT deployment_id, state FROM events")).keys()
        known = dict(self._rows("SELECT id_hash, day FROM pruned"))
        assert all(states[name] == "delivered" and id_hash(name) in known for name in deleted)
        forgotten = days.keys() - known.keys()
        assert all(days[name] < (self.clock.now_ms() - KEEP_IDS) // DAY_MS for name in forgotten)
        for key in self.tried:
            names = {name for name in self._names(key) if id_hash(name) in forgotten}
            self.hivel.forgotten |= names
            self.forgotten |= {key} if names else set()

    @rule()
    def retention(self) -> None:
        self._retain()

    @rule()
    def a_month_later_retention(self) -> None:
        self.clock.advance(ms=31 * DAY_MS)
        self._retain()

    @rule(until=points)
    def killed_while_it_cleans_up(self, until: int) -> None:
        self.clock.advance(ms=31 * DAY_MS)
        self._retain(until=until)

    # ---- the disk

    @rule(how=st.sampled_from(["at once", "and rolled back", "at the end"]))
    def the_disk_is_full(self, how: str) -> None:
        self._disk(how)

    @rule()
    def there_is_room_again(self) -> None:
        self._disk(None)

    def _disk(self, full: str | None) -> None:
        self.full = full
        if self.daemon is not None:
            self.daemon.unreliable.full = full

    # ---- what holds at any time

    def _rows(self, statement: str, *values: object) -> list[Any]:
        return self.observer.execute(statement, values).fetchall()

    @staticmethod
    def _names(key: tuple[str, int]) -> tuple[str, str]:
        """The ids that a build may have."""
        name, start = key
        return name, events.reused_number_id(name, start)

    def _known_as(self, key: tuple[str, int]) -> list[str]:
        """The ids under which the build is in the file, as a row or deleted."""
        found = []
        for name in self._names(key):
            values = (name, key[1], id_hash(name), key[1])
            [(times,)] = self._rows(
                "SELECT (SELECT count(*) FROM events WHERE deployment_id = ? AND started_at = ?)"
                " OR (SELECT count(*) FROM pruned WHERE id_hash = ? AND started_at = ?)", *values
            )  # fmt: skip
            found += [name] * times
        return found

    @invariant()
    def what_was_enqueued_is_there_once(self) -> None:
        for key in self.tried:
            names = self._known_as(key)
            assert len(names) <= 1, f"{key} is there as {names}"
            assert names or key not in self.owed or key in self.forgotten, f"{key} is lost"

    @invariant()
    def hivel_has_each_build_once(self) -> None:
        forgotten = {name.partition("@")[0] for name in self.hivel.forgotten}
        builds = Counter((body_start(body), name.partition("@")[0]) for name, body in self.hivel.has.items())
        builds = Counter({build: times for build, times in builds.items() if build[1] not in forgotten})
        assert all(times == 1 for times in builds.values()), f"doubled at Hivel: {builds}"

    @invariant()
    def what_is_delivered_is_at_hivel_and_what_failed_has_a_reason(self) -> None:
        for name, state, reason, settled_at in self._rows(
            "SELECT deployment_id, state, reason, settled_at FROM events"
        ):
            assert state != "delivered" or name in self.hivel.has, f"{name} never arrived"
            assert state != "failed" or reason, f"{name} failed for no reason"
            assert (settled_at is None) == (state == "pending")

    @invariant()
    def the_counts_are_those_of_the_rows(self) -> None:
        counted = dict(self._rows("SELECT state, count(*) FROM events GROUP BY state"))
        [(pending, held, delivered, failed)] = self._rows(COUNTS)
        counts = {"pending": pending, "held": held, "delivered": delivered, "failed": failed}
        assert {state: n for state, n in counts.items() if n} == counted

    # ---- the end

    def teardown(self) -> None:
        try:
            self._let_things_settle()
            self._check()
        finally:
            self._kill()
            self.loop.close()
            self.observer.close()
            self.folder.cleanup()

    def _let_things_settle(self) -> None:
        """All troubles are over; what failed is replayed."""
        self._disk(None)
        self.hivel.mood = "up"
        self.hivel.poison.clear()
        for _ in range(2):
            for _ in range(3):
                self._deliver()
                self.clock.advance(ms=SETTINGS.backoff_max_ms)
            for pick, (state,) in enumerate(self._rows("SELECT state FROM events ORDER BY id DESC")):
                if state == "failed":
                    self.another_process_replays(pick)

    def _check(self) -> None:
        left = self._rows("SELECT * FROM events WHERE state != 'delivered'")
        assert not left, f"did not arrive: {left}"
        for check in (
            self.what_was_enqueued_is_there_once, self.hivel_has_each_build_once,
            self.what_is_delivered_is_at_hivel_and_what_failed_has_a_reason, self.the_counts_are_those_of_the_rows,
        ):  # fmt: skip
            check()
        for key in self.owed:
            assert any(name in self.hivel.has for name in self._names(key)), f"{key} never arrived"


def body_start(body: bytes) -> str:
    """The start of the build that an event is of."""
    return events.decode(body).start_time


def test_random_stories_of_the_outbox() -> None:
    play_random_stories(World, stories=STORIES, steps=STEPS)
