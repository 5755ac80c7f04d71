"""An outbox of an older version becomes one of today, whatever is in it and whatever happens meanwhile."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from agent.config.credentials import Token
from agent.config.rules import Options, Pattern, Template
from agent.config.settings import DeliverySettings, HivelSettings, JenkinsSettings, Settings
from agent.deployments.derive import Rules
from agent.ingest.ingest import Ingest
from agent.model import event as events
from agent.model import fact as facts
from agent.model.build import Build
from agent.model.deployment import Deployment, State, event_of
from agent.model.keys import Project, jenkins_run
from agent.outbox.sqlite import swap
from agent.outbox.sqlite import upgrade as upgrading
from agent.outbox.sqlite.connection import PatientConnection, RunLock
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.outbox.sqlite.inbox import add_report
from agent.outbox.sqlite.repair import repair
from agent.outbox.sqlite.upgrade import Upgraded, upgrade
from agent.outbox.values import DamagedError, OutboxError
from agent.sources.reports.accept import Reports
from tests.integration.disks import mounted
from tests.integration.older import (
    POLLED,
    VERSIONS,
    Said,
    contents,
    filled,
    older_add_report,
    story,
    unpacked,
)
from tests.integration.support import Agent, FakeClock, rule, wait_until
from tests.simulation.support import memory_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agent.sandbox.hivel import LocalHivel
    from agent.sandbox.server import LocalServer

HOUR = 3_600_000
MB = 1024 * 1024
PAGE = 4096
REPORT = '{"provider": "jenkins", "job": "deploy/late", "build_number": "%d"}'


@pytest.fixture(autouse=True)
def in_no_hurry(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Nobody opens the old file in the moment when it is replaced, but where a test says so."""
    if "emit" not in request.node.name:
        monkeypatch.setattr(swap, "HOLD_S", 0.0)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where a thousand calls of the disk take no time; what is killed is a process, and not the machine."""
    with memory_folder() as name:
        yield Path(name)


def old_events(path: Path) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute("SELECT * FROM events ORDER BY id").fetchall()]


def upgraded(path: Path, clock: FakeClock) -> Upgraded:
    done = upgrade(path, clock, POLLED)
    assert done is not None
    return done


def deployments(path: Path, clock: FakeClock) -> list[Deployment]:
    with SqliteOutbox(path, clock) as outbox:
        assert outbox.find_damage() is None
        return list(outbox.all_deployments())


# ---- what is in it


@pytest.mark.parametrize("version", VERSIONS)
def test_every_event_keeps_its_number_its_id_its_state_and_what_hivel_gets(
    tmp_path: Path, clock: FakeClock, version: int
) -> None:
    path = unpacked(tmp_path, version)
    before = old_events(path)
    done = upgraded(path, clock)
    assert (done.version, done.events) == (version, len(before))
    for old, now in zip(before, deployments(path, clock), strict=True):
        assert now.number == old["id"]
        assert now.deployment_id == (None if old["state"] == "held" else old["deployment_id"])
        assert (now.state.value, now.attempts, now.reason) == (old["state"], old["attempts"], old["reason"])
        assert (now.created_at, now.settled_at) == (old["created_at"], old["settled_at"])
        if old["payload"] is not None:
            assert events.encode(event_of(old["deployment_id"], now.content)).decode() == old["payload"]
        if old["state"] == "pending":
            assert now.next_attempt_at == old["next_attempt_at"]


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_due_is_sent_as_it_would_have_been(tmp_path: Path, clock: FakeClock, version: int) -> None:
    path = unpacked(tmp_path, version)
    clock.advance(ms=365 * 24 * HOUR)
    due = [old for old in old_events(path) if old["state"] == "pending"]
    upgraded(path, clock)
    with SqliteOutbox(path, clock) as outbox:
        claimed = outbox.claim(1000)
        assert [each.deployment_id for each in claimed] == [old["deployment_id"] for old in due]
        payloads = [events.encode(event_of(each.deployment_id, each.content)).decode() for each in claimed]
    assert payloads == [old["payload"] for old in due]


@pytest.mark.parametrize("version", VERSIONS)
def test_counts_and_everything_besides_events(tmp_path: Path, clock: FakeClock, version: int) -> None:
    path = unpacked(tmp_path, version)
    before = contents(path)
    states = [old["state"] for old in old_events(path)]
    upgraded(path, clock)
    after = contents(path)
    assert [row[:6] for row in after["jobs"]] == before["jobs"]
    numbers = [
        (controller, job, 1, next_number - 1, "before audit") for controller, job, next_number, *_ in before["jobs"]
    ]
    assert [row[:5] for row in after["endings"]] == [each for each in numbers if each[3]]
    for table in ("open_builds", "missed", "backfills", "backfilled_jobs", "delivery", "repairs", "reports"):
        assert after[table] == before.get(table, []), table
    assert after["forgotten"] == before.get("pruned", [])
    clocks = [None] if version < 5 else []
    assert after["controllers"] == [(*row, *clocks) for row in before["controllers"]]
    with SqliteOutbox(path, clock) as outbox:
        counts = msgspec.structs.asdict(outbox.counts())
    assert {state: n for state, n in counts.items() if n} == {state: states.count(state) for state in set(states)}


def test_names_of_jobs_that_were_renamed_are_kept(tmp_path: Path, clock: FakeClock) -> None:
    path = unpacked(tmp_path)
    upgraded(path, clock)
    with SqliteOutbox(path, clock) as outbox:
        after, before = Project("jenkins", "main", "deploy/after"), Project("jenkins", "main", "deploy/before")
        assert outbox.former_names(after) == [before]
        [row] = outbox.of_run(jenkins_run("main", "deploy/after", 1))
        assert row.deployment_id == "main:deploy/before#1"


def test_of_thirty_attempts_the_first_and_the_last_twenty_are_kept(tmp_path: Path, clock: FakeClock) -> None:
    path = unpacked(tmp_path)
    upgraded(path, clock)
    with SqliteOutbox(path, clock) as outbox:
        row = outbox.find("main:deploy/shop#3")
        assert row is not None and row.attempts == 30
        made = outbox.attempts(row)
        assert [each.n for each in made] == [1, *range(11, 31)]
        assert [each.answer for each in made] == ["busy 1", *(f"busy {n}" for n in range(11, 31))]
        refused = outbox.find("main:deploy/shop#4")
        assert refused is not None
        assert [(each.n, each.verdict) for each in outbox.attempts(refused)] == [(1, "retry"), (2, "failed")]
        delivered = outbox.find("main:deploy/shop#1")
        assert delivered is not None and outbox.attempts(delivered) == []


def test_a_build_that_reported_something_and_that_no_poll_knows_is_asked_for(tmp_path: Path, clock: FakeClock) -> None:
    path = unpacked(tmp_path)
    upgraded(path, clock)
    with SqliteOutbox(path, clock) as outbox:
        wanted = {(each.full_name, each.number) for each in outbox.wanted_builds("main")}
    assert {
        ("deploy/held", 1),
        ("deploy/held", 2),
        ("deploy/held", 3),
        ("unruled/held", 4),
        ("deploy/told", 5),
    } <= wanted
    assert ("deploy/running", 9) not in wanted, "it is followed anyway"
    assert ("deploy/told", 2) not in wanted, "a poll has read it"


def test_an_id_that_was_deleted_is_known_for_ever(tmp_path: Path, clock: FakeClock) -> None:
    path = unpacked(tmp_path)
    old_story = story()
    upgraded(path, clock)
    with Heard(path, old_story.now) as heard:
        again = [said for said in old_story.said if said.final and said.final["job"] == "deploy/pruned"]
        assert len(again) == 5
        for said in again:
            heard.hear(said)
        assert heard.new() == []


# ---- everything that was said, said again


class Heard:
    """The ingest on an upgraded outbox, under the rules of the story that was played when the file was made."""

    def __init__(self, path: Path, now: int) -> None:
        controllers = tuple(
            JenkinsSettings(name, url, "u", Token("t"), 15_000, "now", 5_000)
            for name, url in (
                ("main", "https://jenkins.example.test/"),
                ("eu:2", "https://eu.example.test:8443/jenkins/"),
            )
        )
        environment = Template.parse("{environment}", ("environment",))
        by_stage = Pattern.parse("re:^Deploy (?P<environment>.+)$")
        rules = (
            replace(rule("stages/**", branch="main"), stage=by_stage, environment=environment),
            replace(rule("multi/**"), checkouts="each"),
            rule("deploy/**"),
        )
        settings = Settings(
            file=path, hivel=HivelSettings("http://hivel.test", Token("t")), controllers=controllers, rules=rules,
            options=Options(environment_map={"prod": "production"}), outbox=path, delivery=DeliverySettings(),
            hold_for_ms=HOUR,
        )  # fmt: skip
        self.outbox = SqliteOutbox(path, FakeClock(now))
        self.before = {row.number: row for row in self.outbox.all_deployments()}
        self._ingest = Ingest(self.outbox, Rules(rules, settings.options, frozenset(POLLED)), HOUR)
        self._reports = Reports(settings, self._ingest)

    def __enter__(self) -> Heard:
        return self

    def __exit__(self, *_: object) -> None:
        self.outbox.close()

    def hear(self, said: Said) -> None:
        """From the poller, or from a build."""
        if said.final is not None:
            build = msgspec.convert(said.final, Build)
            run = jenkins_run(build.controller, build.job, build.number)
            self._ingest.accept([facts.final(run, build, at=said.at)])
        else:
            assert said.report is not None
            self._reports.take(said.report, source="emit", at=said.at)

    def release(self) -> None:
        """What was held long enough goes out."""
        self._ingest.release()

    def now(self) -> dict[int, Deployment]:
        return {row.number: row for row in self.outbox.all_deployments()}

    def new(self) -> list[str | None]:
        return [row.deployment_id for number, row in self.now().items() if number not in self.before]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("version", [3, 4, 5])
def test_what_was_said_before_and_is_said_again_makes_no_second_deployment(
    tmp_path: Path, clock: FakeClock, version: int, seed: int
) -> None:
    path = unpacked(tmp_path, version)
    told = story(version)
    upgraded(path, clock)
    said = list(told.said)
    if seed:
        random.Random(seed).shuffle(said)
    with Heard(path, told.now) as heard:
        for each in said:
            heard.hear(each)
        assert heard.new() == []
        for number, row in heard.now().items():
            before = heard.before[number]
            assert (row.deployment_id, row.state) == (before.deployment_id, before.state)
            if row.state is State.DELIVERED:
                assert row.content == before.content


def test_what_is_held_is_confirmed_by_a_poll_after_the_upgrade(tmp_path: Path, clock: FakeClock) -> None:
    path = unpacked(tmp_path)
    now = story().now
    old_ids = {old["id"]: old["deployment_id"] for old in old_events(path) if old["state"] == "held"}
    upgraded(path, clock)
    with Heard(path, now) as heard:
        for job, number in [
            ("deploy/held", 1),
            ("deploy/held", 2),
            ("deploy/held", 3),
            ("unruled/held", 4),
            ("deploy/running", 9),
        ]:
            build = {
                "controller": "main", "job": job, "number": number, "result": "UNSTABLE", "started_at": now - HOUR // 2,
                "ended_at": now + 1_000, "checkouts": [
                    {"remote_urls": ["https://git.example.test/acme/shop"], "branches": ["main"], "commit": "ab" * 20}
                ],
            }  # fmt: skip
            heard.hear(Said(now + 2_000, final=build))
        assert heard.new() == []
        confirmed = {number: row for number, row in heard.now().items() if number in old_ids}
    assert {number: row.deployment_id for number, row in confirmed.items()} == old_ids
    assert {(row.state, row.content.status.value, row.known) for row in confirmed.values()} == {
        (State.PENDING, "failed", True)
    }


def test_what_is_held_goes_out_alone_after_the_upgrade(tmp_path: Path, clock: FakeClock) -> None:
    path = unpacked(tmp_path)
    held = {old["id"]: old for old in old_events(path) if old["state"] == "held"}
    upgraded(path, clock)
    with Heard(path, story().now + HOUR) as heard:
        heard.release()
        gone_out = {number: row for number, row in heard.now().items() if number in held}
        assert heard.new() == []
    for number, row in gone_out.items():
        complete = held[number]["payload"] is not None
        assert (row.deployment_id, row.state) == (
            held[number]["deployment_id"], State.PENDING if complete else State.FAILED
        )  # fmt: skip


# ---- killed


@contextmanager
def child(work: Callable[[], object]) -> Iterator[int]:
    """A process that does this; it is ended with the block."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    try:
        yield pid
    finally:
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def upgrade_and_die(path: Path, clock: FakeClock, steps: int) -> None:
    """This process is killed after so many changes of the folder, calls of the disk and statements of SQL."""
    left = [steps]

    def step() -> None:
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            step()
            return call(*args, **options)

        return run

    class Counted(PatientConnection):
        def execute(self, *args: Any) -> Any:
            step()
            return super().execute(*args)

        def executemany(self, *args: Any) -> Any:
            step()
            return super().executemany(*args)

    connect = sqlite3.connect
    sqlite3.connect = lambda *args, **options: connect(*args, **options | {"factory": Counted})
    for place, name in [
        (Path, "unlink"), (Path, "replace"), (Path, "write_text"), (os, "link"), (os, "open"), (os, "fsync"),
        (os, "close"), (os, "chown"),
    ]:  # fmt: skip
        setattr(place, name, counted(getattr(place, name)))
    upgrade(path, clock, POLLED)


@pytest.mark.parametrize("part", range(4))
def test_killed_before_whatever_step_it_begins_again_and_comes_to_the_same_end(
    folder: Path, clock: FakeClock, part: int
) -> None:
    path = unpacked(folder)
    upgraded(path, clock)
    expected = contents(path)
    for steps in range(part, 10_000, 4):
        for file in folder.iterdir():
            file.unlink()
        unpacked(folder)
        with child(partial(upgrade_and_die, path, clock, steps)) as pid:
            _, status = os.waitpid(pid, 0)
        assert status in (0, signal.SIGKILL)
        store = older_add_report if steps % 8 < 4 else add_report
        store(str(path), REPORT % steps, 5.0)
        upgrade(path, clock, POLLED)
        found = contents(path)
        assert found["reports"][-1][2] == REPORT % steps
        assert found | {"reports": found["reports"][:-1]} == expected
        left = {file.name for file in folder.iterdir()} - {"outbox.db-wal", "outbox.db-shm"}
        assert left <= {"outbox.db", "outbox.db.v5"}, "nothing else is left behind"
        if status == 0:
            break
    assert steps > 150
    print(f"killed at {(steps - part) // 4} points")  # noqa: T201


@pytest.mark.parametrize("seed", range(8))
def test_killed_at_any_moment_it_begins_again(folder: Path, tmp_path: Path, clock: FakeClock, seed: int) -> None:
    """By SIGKILL, some times one after another."""
    path = filled(folder, 3_000)
    straight = filled(tmp_path, 3_000)
    began = time.monotonic()
    upgraded(straight, clock)
    lasts = time.monotonic() - began
    chance = random.Random(seed)
    for _ in range(4):
        with child(partial(upgrade, path, clock, POLLED)) as pid:
            over = time.monotonic() + chance.uniform(0, lasts * 1.2)
            while time.monotonic() < over and os.waitpid(pid, os.WNOHANG) == (0, 0):
                time.sleep(0.001)
    upgrade(path, clock, POLLED)
    assert contents(path) == contents(straight)


# ---- emit


REPORTER = """
import sys, time
from tests.integration.older import older_add_report
from agent.outbox.sqlite.inbox import add_report
store = {"older": older_add_report, "today's": add_report}[sys.argv[1]]
print("here", flush=True)
for number in range(1_000_000):
    body = f'{{"of": "{sys.argv[2]}", "n": {number}}}'
    store(sys.argv[3], body, 5.0)
    print(body, flush=True)
"""


@pytest.mark.parametrize("rows", [10, 20_000])
def test_emit_of_either_version_stores_before_during_and_after(tmp_path: Path, clock: FakeClock, rows: int) -> None:
    path = filled(tmp_path, rows)
    reporters = [
        subprocess.Popen(
            [sys.executable, "-c", REPORTER, version, str(n), str(path)], stdout=subprocess.PIPE, text=True
        )
        for n, version in enumerate(["older", "today's", "older", "today's"])
    ]
    try:
        for reporter in reporters:
            assert reporter.stdout is not None
            assert reporter.stdout.readline() == "here\n"
        wait_until(lambda: count(path, "reports") > 20, "some reports came before")
        before = count(path, "reports")
        upgraded(path, clock)
        meanwhile = count(path, "reports")
        wait_until(lambda: count(path, "reports") > meanwhile + 20, "some reports came after")
    finally:
        for reporter in reporters:
            reporter.terminate()
    stored = {line for reporter in reporters for line in reporter.communicate()[0].splitlines()}
    kept = [body for _, _, body in contents(path)["reports"]]
    assert stored <= set(kept), "a report that was stored is lost"
    assert len(kept) - len(set(kept)) <= len(reporters), "only what was stored in that very moment may be there twice"
    print(f"{before} reports before, {meanwhile - before} during, {len(kept) - meanwhile} after")  # noqa: T201


def count(path: Path, table: str) -> int:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


@pytest.mark.parametrize("version", [3, 4, 5])
def test_reports_that_nobody_took_are_taken_after_the_upgrade(tmp_path: Path, clock: FakeClock, version: int) -> None:
    path = unpacked(tmp_path, version)
    before = contents(path)["reports"]
    assert before
    add_report(str(path), "{}", 5.0)
    upgraded(path, clock)
    add_report(str(path), "{}", 5.0)
    with SqliteOutbox(path, clock) as outbox:
        assert [each.body for each in outbox.reports(10)] == [*(row[2] for row in before), "{}", "{}"]


# ---- others meanwhile


def at(percent: int, act: Callable[[], None]) -> Callable[[int], None]:
    """Do it once, when so much is done."""
    done: list[int] = []

    def progress(now: int) -> None:
        if now >= percent and not done:
            done.append(now)
            act()

    return progress


def test_other_verbs_say_how_far_it_is(tmp_path: Path, clock: FakeClock) -> None:
    agent = Agent.configured(tmp_path, jenkins="http://127.0.0.1:9", hivel="http://127.0.0.1:9")
    path = filled(tmp_path, 5_000)
    said: list[str] = []
    with RunLock(path):
        assert upgrade(path, clock, POLLED, at(20, lambda: said.append(agent.run("status").stderr))) is not None
    [line] = said
    assert f"the outbox {path} is being upgraded, " in line and " %; try again when the upgrade is complete" in line
    percent = int(line.partition("upgraded, ")[2].partition(" %")[0])
    assert 20 <= percent < 100
    assert agent.run("status").stderr == ""


def test_before_the_agent_starts_other_verbs_leave_the_file_as_it_is(tmp_path: Path) -> None:
    agent = Agent.configured(tmp_path, jenkins="http://127.0.0.1:9", hivel="http://127.0.0.1:9")
    path = unpacked(tmp_path)
    before = contents(path)
    for verb in (["status"], ["queue", "list"], ["replay", "--failed", "--yes"]):
        done = agent.run(*verb)
        assert done.returncode == 1
        assert "was written by an older version; it is upgraded when hivel-agent run or once starts" in done.stderr
    assert contents(path) == before


def write(path: Path, sql: str) -> Callable[[], None]:
    def act() -> None:
        with closing(sqlite3.connect(path, isolation_level=None, timeout=10)) as connection:
            connection.execute(sql)

    return act


def test_what_a_verb_of_the_older_version_changes_meanwhile_is_not_lost(tmp_path: Path, clock: FakeClock) -> None:
    path = filled(tmp_path, 3_000)
    replay = write(path, "UPDATE events SET state = 'pending', next_attempt_at = 1 WHERE id = 7")
    assert upgrade(path, clock, POLLED, at(50, replay)) is not None
    assert deployments(path, clock)[6].state is State.PENDING


def test_it_gives_up_when_the_older_version_goes_on_writing(tmp_path: Path, clock: FakeClock) -> None:
    path = filled(tmp_path, 3_000)
    wait = write(path, "UPDATE events SET next_attempt_at = next_attempt_at + 1 WHERE id = 7")
    told = [0]

    def progress(percent: int) -> None:
        if told[-1] < 50 <= percent:
            wait()
        told.append(percent)

    with pytest.raises(OutboxError, match="a process of the older version keeps writing"):
        upgrade(path, clock, POLLED, progress)
    assert len(old_events(path)) == 3_000
    assert [file.name for file in tmp_path.iterdir() if "upgrading" in file.name] == []


def test_a_process_that_has_it_open_is_named(tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upgrading, "PATIENCE_S", 0.1)
    path = unpacked(tmp_path)
    before = contents(path)
    ready = tmp_path / "ready"

    def backfill() -> None:
        connection = sqlite3.connect(path)
        connection.execute("SELECT 1 FROM events").fetchall()
        ready.touch()
        signal.pause()

    with child(backfill) as pid:
        wait_until(ready.exists, "it is open")
        with pytest.raises(OutboxError, match=f"process {pid} has it open.* is unchanged"):
            upgrade(path, clock, POLLED)
        add_report(str(path), "{}", 5.0)
    assert {name: rows for name, rows in contents(path).items() if name != "reports"} == {
        name: rows for name, rows in before.items() if name != "reports"
    }
    upgraded(path, clock)


def test_the_agent_upgrades_and_sends_what_was_due_and_nothing_else(
    tmp_path: Path, hivel: LocalHivel, hivel_server: LocalServer, jenkins_server: LocalServer
) -> None:
    agent = Agent.configured(tmp_path, jenkins=jenkins_server, hivel=hivel_server)
    path = unpacked(tmp_path)
    due = sorted(old["deployment_id"] for old in old_events(path) if old["state"] == "pending")
    now = time.time_ns() // 1_000_000
    write(path, f"UPDATE events SET next_attempt_at = 1, created_at = iif(state = 'held', {now}, created_at)")()
    write(path, f"UPDATE reports SET received_at = {now}")()
    done = agent.run("once")
    assert "Traceback" not in done.stderr, done.stderr
    assert path.with_name("outbox.db.v5").exists()
    assert sorted(each.event.deployment_id for each in hivel.deployments()) == due
    states = {state: n for state, n in agent.json("status")["events"].items() if n}
    assert states == {"held": 6 + 3, "delivered": 27 + len(due), "failed": 8}, "three reports were taken from the inbox"
    assert agent.run("once").returncode in (0, 1)
    assert len(hivel.deployments()) == len(due)


# ---- the disk


def test_the_old_file_is_kept_for_a_way_back(tmp_path: Path, clock: FakeClock) -> None:
    path = unpacked(tmp_path)
    before = contents(path)
    kept = upgraded(path, clock).kept
    assert kept == tmp_path / "outbox.db.v5"
    assert contents(kept) == before
    with closing(sqlite3.connect(kept)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    kept.replace(path)  # the way back
    assert contents(path) == before
    assert upgraded(path, clock).kept == kept  # and forth


def test_an_older_one_that_was_kept_stays(tmp_path: Path, clock: FakeClock) -> None:
    path = unpacked(tmp_path)
    (tmp_path / "outbox.db.v5").write_text("of another time")
    assert upgraded(path, clock).kept == tmp_path / "outbox.db.v5-1"
    assert (tmp_path / "outbox.db.v5").read_text() == "of another time"


def test_what_is_only_in_the_log_beside_the_file_is_there_too(tmp_path: Path, clock: FakeClock) -> None:
    path = unpacked(tmp_path)

    def older_agent() -> None:
        connection = sqlite3.connect(path)
        connection.execute("INSERT INTO reports VALUES (99, 1, 'in the log')")
        connection.commit()
        os.kill(os.getpid(), signal.SIGKILL)

    with child(older_agent) as pid:
        os.waitpid(pid, 0)
    assert (tmp_path / "outbox.db-wal").stat().st_size > 0
    kept = upgraded(path, clock).kept
    assert kept is not None
    assert contents(path)["reports"][-1] == contents(kept)["reports"][-1] == (99, 1, "in the log")


def test_without_room_for_both_the_old_file_goes(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = unpacked(tmp_path)
    rooms = [100 * MB, path.stat().st_size - 1]
    monkeypatch.setattr(upgrading, "free_bytes", lambda _: rooms.pop(0))
    assert upgraded(path, clock).kept is None
    assert {file.name for file in tmp_path.iterdir()} == {"outbox.db"}
    assert len(deployments(path, clock)) == 66


@pytest.mark.root
def test_on_a_full_disk_it_stays_as_it_is_and_goes_on_once_there_is_room(tmp_path: Path, clock: FakeClock) -> None:
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=4m", "tmpfs") as disk:
        path = filled(disk.folder, 2_000)
        before = contents(path)
        disk.fill()
        with pytest.raises(OutboxError, match="its disk has 0 MB of free space, and 2 MB are needed; it is unchanged"):
            upgrade(path, clock, POLLED)
        assert contents(path) == before
        disk.make_room()
        assert upgraded(path, clock).events == 2_000


@pytest.mark.root
def test_a_disk_that_fills_up_meanwhile_is_no_loss(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upgrading, "free_bytes", lambda _: 100 * MB)
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=4m", "tmpfs") as disk:
        path = filled(disk.folder, 2_000)
        before = contents(path)
        with pytest.raises(OutboxError, match=r"cannot be upgraded: .*; it is unchanged. Free some space on its disk"):
            upgrade(path, clock, POLLED, at(10, disk.fill))
        assert contents(path) == before
        assert [file.name for file in disk.folder.iterdir() if "upgrading" in file.name] == []


@pytest.mark.root
def test_on_a_disk_that_cannot_be_written_it_stays_as_it_is(tmp_path: Path, clock: FakeClock) -> None:
    with mounted(tmp_path / "disk", "-t", "tmpfs", "tmpfs") as disk:
        path = unpacked(disk.folder)
        content = path.read_bytes()
        disk.remount("ro")
        with pytest.raises(OutboxError, match=r"cannot be upgraded: .*; it is unchanged. Check its owner"):
            upgrade(path, clock, POLLED)
        disk.remount("rw")
        assert path.read_bytes() == content
        upgraded(path, clock)


@pytest.mark.root
def test_who_could_write_to_the_old_file_can_write_to_the_new_one(tmp_path: Path, clock: FakeClock) -> None:
    path = unpacked(tmp_path)
    path.chmod(0o660)
    os.chown(path, 12, 34)
    before = path.stat()
    upgraded(path, clock)
    after = path.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)


def test_a_name_that_is_a_link_stays_one(tmp_path: Path, clock: FakeClock) -> None:
    (tmp_path / "data").mkdir()
    path = unpacked(tmp_path / "data")
    link = tmp_path / "outbox.db"
    link.symlink_to(path)
    done = upgraded(link, clock)
    assert link.is_symlink() and done.kept == tmp_path / "data" / "outbox.db.v5"
    assert len(deployments(link, clock)) == 66
    overwritten = b"junk" * 1000
    path.write_bytes(overwritten)
    assert repair(link, clock, "junk", POLLED).moved_to.read_bytes() == overwritten
    assert link.is_symlink() and deployments(link, clock) == []


def test_what_needs_no_upgrade_is_left_alone(tmp_path: Path, clock: FakeClock) -> None:
    path = tmp_path / "outbox.db"
    assert upgrade(path, clock, POLLED) is None
    assert not path.exists()
    path.touch()
    assert upgrade(path, clock, POLLED) is None
    SqliteOutbox(path, clock).close()
    content = path.read_bytes()
    for left_behind in (".upgrading", ".upgrading-journal", ".upgrading-progress"):
        path.with_name(path.name + left_behind).touch()
    assert upgrade(path, clock, POLLED) is None
    assert path.read_bytes() == content
    assert {file.name for file in tmp_path.iterdir()} == {"outbox.db"}


# ---- damage


def test_a_file_that_is_damaged_in_the_middle_is_repaired(tmp_path: Path, clock: FakeClock) -> None:
    path = filled(tmp_path, 3_000)
    with path.open("r+b") as file:
        for page in range(100, 110):
            file.seek(page * PAGE)
            file.write(b"\xa5" * PAGE)
    content = path.read_bytes()
    with pytest.raises(DamagedError):
        upgrade(path, clock, POLLED)
    assert path.read_bytes() == content
    done = repair(path, clock, "malformed", POLLED)
    assert 2_800 < done.events < 3_000
    rows = deployments(path, clock)
    assert {row.run.project.scope for row in rows} == {"main"}
    assert {row.state for row in rows} == {State.PENDING, State.DELIVERED}


def test_an_event_that_no_agent_wrote_is_damage(tmp_path: Path, clock: FakeClock) -> None:
    path = unpacked(tmp_path)
    write(path, "UPDATE events SET payload = '{' WHERE id = 5")()
    with pytest.raises(DamagedError, match="event 5 cannot be read"):
        upgrade(path, clock, POLLED)
    assert repair(path, clock, "a test", POLLED).events == 65


def test_a_file_that_is_no_database_is_damage(tmp_path: Path, clock: FakeClock) -> None:
    path = tmp_path / "outbox.db"
    path.write_bytes(b"this was an outbox once\n" * 500)
    with pytest.raises(DamagedError):
        upgrade(path, clock, POLLED)


# ---- size


def drive(path: Path, *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.upgrade_driver", str(path), *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    found: dict[str, Any] = msgspec.json.decode(done.stdout) if done.returncode == 0 else {}
    return found


def test_many_rows_take_little_memory_and_their_time(tmp_path: Path, clock: FakeClock) -> None:
    """A hundred thousand, or as many as HIVEL_ROWS says, with some kills on the way."""
    rows = int(os.environ.get("HIVEL_ROWS", "100000"))
    path = filled(tmp_path, rows)
    size = path.stat().st_size
    for percent in ("5", "60", "92", "98"):
        assert drive(path, percent) == {}
    figures = drive(path)
    print(f"{rows} rows, {size // MB} MB -> {path.stat().st_size // MB} MB, killed 4 times: {figures}")  # noqa: T201
    assert figures["events"] == rows
    assert figures["memory_mb"] < 150
    assert path.stat().st_size < size
    clock.advance(s=3600)
    with SqliteOutbox(path, clock) as outbox:
        counts = outbox.counts()
        assert (counts.pending, counts.delivered) == (rows // 100, rows - rows // 100)
        assert len(outbox.claim(1_000)) == min(1_000, rows // 100)
    assert count(path, "forgotten") == rows // 2
