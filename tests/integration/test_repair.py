"""A damaged outbox: the service starts all the same, nothing is deleted, and what can be read is kept."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from agent.model import fact as facts
from agent.model.build import Build, Checkout, Stage
from agent.model.deployment import State, event_of
from agent.model.fact import Report
from agent.model.keys import jenkins_run
from agent.outbox.sqlite import repair as repairing
from agent.outbox.sqlite import swap
from agent.outbox.sqlite.copying import complete_new_file
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.outbox.sqlite.inbox import add_report
from agent.outbox.sqlite.repair import REREAD_MS, repair, unfinished
from agent.outbox.values import DamagedError, OutboxError
from tests.conformance.things import success
from tests.integration.older import POLLED, contents, unpacked
from tests.integration.support import NOON, REPO, ingest_of, poll, rule

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.config.settings import JenkinsSettings
    from agent.model.deployment import Deployment
    from agent.outbox.interface import Outbox
    from agent.sandbox.jenkins import LocalJenkins
    from tests.integration.support import FakeClock

PAGE = 4096
EVENTS = 400
JOB = "deploy/shop"
HOUR = 3_600_000
INSERT_JOB = (
    "INSERT INTO jobs (controller, full_name, next_build_number, newest_number, newest_started_at, looked_at)"
    " VALUES ('main', 'deploy/shop', {}, {}, 5, 5)"
)
# What was written down, and not found in the environment, needs no word of the poller.
WRITTEN = ("repo_url", "branch")


@pytest.fixture(autouse=True)
def in_no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody opens the damaged file in the moment when it is replaced."""
    monkeypatch.setattr(swap, "HOLD_S", 0.0)


def build(number: int, *, stages: tuple[str, ...] = ()) -> Build:
    return Build(
        controller="main", job=JOB, number=number, result="SUCCESS", started_at=NOON - HOUR, ended_at=NOON - 60_000,
        url=f"https://jenkins.example.test/job/deploy/job/shop/{number}/", parameters={"ENVIRONMENT": "production"},
        checkouts=(Checkout((REPO,), ("refs/remotes/origin/main",), "ab" * 20),),
        stages=tuple(Stage(name, "SUCCESS", NOON - HOUR, NOON - 60_000) for name in stages),
    )  # fmt: skip


def final(number: int, *, stages: tuple[str, ...] = ()) -> facts.Fact:
    return facts.final(jenkins_run("main", JOB, number), build(number, stages=stages), at=NOON)


def report(number: int, **fields: Any) -> facts.Fact:
    said = Report(**{"provider": "jenkins", "status": "SUCCESS", "repo_url": REPO, "branch": "main"} | fields)
    return facts.report(jenkins_run("main", JOB, number), said, source="emit", at=NOON - 90_000)


@pytest.fixture
def path(tmp_path: Path, clock: FakeClock) -> Path:
    """An outbox with 400 deployments, the first 100 of them delivered."""
    path = tmp_path / "outbox.db"
    with SqliteOutbox(path, clock) as outbox:
        ingest_of(outbox).accept([final(number) for number in range(1, EVENTS + 1)])
        outbox.settle([success(claimed) for claimed in outbox.claim(100)])
    return path


def overwrite(path: Path, pages: list[int], junk: bytes = b"\xa5") -> None:
    with path.open("r+b") as file:
        for page in pages:
            file.seek(page * PAGE)
            file.write(junk * (PAGE // len(junk)))


def pages_of(path: Path, *names: str) -> list[int]:
    """The pages of tables and indexes, but for their first ones."""
    with closing(sqlite3.connect(path)) as connection:
        marks = ", ".join("?" for _ in names)
        found = connection.execute(
            f"SELECT pageno - 1 FROM dbstat WHERE name IN ({marks}) AND pagetype = 'leaf' AND path != '/'", names
        ).fetchall()
    return [page for (page,) in found]


def sql(path: Path, *statements: str) -> None:
    """What damage may leave behind: rows that do not fit together any more."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def deployments(path: Path, clock: FakeClock) -> dict[str | None, Deployment]:
    with SqliteOutbox(path, clock) as outbox:
        assert outbox.find_damage() is None
        return {row.deployment_id: row for row in outbox.all_deployments()}


def hears_again(path: Path, clock: FakeClock, *said: facts.Fact, stages: bool = False) -> dict[str | None, Deployment]:
    """The next round of the agent, and what Jenkins and builds say again."""
    clock.advance(ms=2 * HOUR)
    with SqliteOutbox(path, clock) as outbox:
        ingest = ingest_of(outbox, *([by_stage()] if stages else []))
        ingest.release()
        ingest.accept(list(said))
    return deployments(path, clock)


def by_stage() -> Any:
    from agent.config.rules import Pattern, Template

    environment = Template.parse("{environment}", ("environment",))
    return replace(rule("**"), stage=Pattern.parse("re:^Deploy (?P<environment>.+)$"), environment=environment)


def test_a_file_that_is_no_database_is_moved_aside_and_the_agent_can_start(path: Path, clock: FakeClock) -> None:
    content = b"this was an outbox once\n" * 100
    path.write_bytes(content)
    with pytest.raises(DamagedError):
        SqliteOutbox(path, clock)
    done = repair(path, clock, "file is not a database", ["main"])
    assert done.moved_to.name == "outbox.db.damaged-20261123T120000Z"
    assert done.moved_to.read_bytes() == content
    assert (done.events, done.reread_from) == (0, NOON - REREAD_MS)
    assert deployments(path, clock) == {}


@pytest.mark.parametrize("seed", range(12))
def test_whichever_pages_are_broken_the_new_file_is_sound(path: Path, clock: FakeClock, seed: int) -> None:
    pages = range(1, path.stat().st_size // PAGE)
    overwrite(path, random.Random(seed).sample(pages, 3), junk=[b"\x00", b"\xa5", b"\xff\x17"][seed % 3])
    done = repair(path, clock, "database disk image is malformed", ["main"])
    with SqliteOutbox(path, clock) as outbox:
        counts = outbox.counts()
        assert counts.pending + counts.delivered == done.events
    contents(path)
    for name, row in deployments(path, clock).items():
        if row.frozen:
            assert name is not None and event_of(name, row.content).build_number == row.run.number


@pytest.mark.parametrize("seed", range(6))
def test_broken_rows_take_no_others_with_them(path: Path, clock: FakeClock, seed: int) -> None:
    overwrite(path, random.Random(seed).sample(pages_of(path, "deployments", "facts"), 3))
    done = repair(path, clock, "database disk image is malformed", ["main"])
    assert done.events >= EVENTS - 3 * 20  # so many are on a page


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("tables", [["deployments"], ["facts"], ["deployments", "facts", "deployments_of_run"]])
def test_what_is_lost_comes_back_from_what_is_left_and_from_jenkins(
    path: Path, clock: FakeClock, seed: int, tables: list[str]
) -> None:
    pages = pages_of(path, *tables)
    overwrite(path, random.Random(seed).sample(pages, len(pages) // 2))
    repair(path, clock, "database disk image is malformed", ["main"])
    after = hears_again(path, clock, *(final(number) for number in range(1, EVENTS + 1)))
    assert set(after) == {f"main:deploy/shop#{number}" for number in range(1, EVENTS + 1)}
    assert {row.content.environment for row in after.values()} == {"production"}


def test_what_was_recovered_keeps_its_state_and_its_attempts(path: Path, clock: FakeClock) -> None:
    sql(
        path,
        "UPDATE deployments SET attempts = 2, reason = 'HTTP 503' WHERE id = 200",
        "INSERT INTO attempts VALUES (200, 1, 5, 7, 503, 'retry', 'busy'), (200, 2, 6, 8, NULL, 'retry', '')",
        "INSERT INTO actions VALUES (200, 1, 5, 'replay', 'ada', ''), (99999, 1, 5, 'replay', 'ada', '')",
        "INSERT INTO webhook_deliveries VALUES (3, 'github', 'one', 5, 'ping', 'ignored', 'ping', '', '')",
        "INSERT INTO webhook_starts VALUES ('github:a', 5, '', 6)",
    )
    before = deployments(path, clock)
    facts_before = contents(path)["facts"]
    done = repair(path, clock, "a test", ["main"])
    assert done.events == EVENTS
    assert deployments(path, clock) == before
    assert contents(path)["facts"] == facts_before
    assert contents(path)["attempts"] == [(200, 1, 5, 7, 503, "retry", "busy"), (200, 2, 6, 8, None, "retry", "")]
    assert contents(path)["actions"] == [(200, 1, 5, "replay", "ada", "")]
    assert contents(path)["webhook_deliveries"] == [(3, "github", "one", 5, "ping", "ignored", "ping", "", "")]
    assert contents(path)["webhook_starts"] == [("github:a", 5, "", 6)]
    assert hears_again(path, clock, final(1), final(200)) == before


def test_the_rest_is_taken_over_but_for_cursors(path: Path, clock: FakeClock) -> None:
    sql(
        path,
        "INSERT INTO projects VALUES (9, 'jenkins', 'main', 'deploy/before')",
        "INSERT INTO former_names VALUES (1, 9)",
        "INSERT INTO forgotten VALUES (x'000102030405060708090a0b', 5, 20000)",
        "INSERT INTO reports VALUES (7, 5, '{}')",
        "INSERT INTO set_aside VALUES (1, 5, 'report', 'report 5:1', 'trace', '{}')",
        "INSERT INTO missed VALUES ('main', 'deploy/shop', 2, 8, 5)",
        "INSERT INTO repairs VALUES (5, 'outbox.db.damaged-of-before', 'malformed', 3, 4)",
        "INSERT INTO controllers VALUES ('main', 'ok', 5, 4, 5, 1, NULL, -20)",
        INSERT_JOB.format(401, 400),
        "INSERT INTO open_builds VALUES ('main', 'deploy/shop', 400, 1, NULL, 5, 5)",
        "INSERT INTO wanted_builds VALUES ('main', 'deploy/other', 3, 5)",
    )
    before = contents(path)
    done = repair(path, clock, "a test", ["main", "eu"])
    after = contents(path)
    for table in ("forgotten", "reports", "set_aside", "missed", "wanted_builds"):
        assert after[table] == before[table] != []
    assert after["repairs"][0] == before["repairs"][0]
    assert after["jobs"] == after["open_builds"] == []
    assert {row[0]: (row[3], row[7]) for row in after["controllers"]} == {
        "main": (done.reread_from, -20), "eu": (done.reread_from, None)
    }  # fmt: skip
    with SqliteOutbox(path, clock) as outbox:
        assert [former.name for former in outbox.former_names(jenkins_run("main", JOB, 1).project)] == ["deploy/before"]


def test_what_is_only_in_the_log_beside_the_file_is_recovered_too(tmp_path: Path, clock: FakeClock) -> None:
    path = tmp_path / "outbox.db"
    with SqliteOutbox(tmp_path / "other.db", clock) as outbox:
        ingest_of(outbox).accept([final(1), final(2)])
        assert (tmp_path / "other.db-wal").stat().st_size > 0
        for suffix in ("", "-wal"):
            shutil.copy(tmp_path / f"other.db{suffix}", tmp_path / f"outbox.db{suffix}")
    content = (path.read_bytes(), (tmp_path / "outbox.db-wal").read_bytes())
    done = repair(path, clock, "a test", ["main"])
    assert done.events == 2
    log = done.moved_to.with_name(done.moved_to.name + "-wal")
    assert (done.moved_to.read_bytes(), log.read_bytes()) == content


class KilledError(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("step", range(1, 21))
def test_a_repair_that_was_interrupted_goes_on(
    path: Path, clock: FakeClock, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before the first, second, … change of the folder."""
    content = path.read_bytes()
    left = [step]

    def fragile(change: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                raise KilledError
            return change(*args, **options)

        return run

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", fragile(Path.unlink))
        patched.setattr(Path, "replace", fragile(Path.replace))
        patched.setattr(os, "link", fragile(os.link))
        patched.setattr(repairing, "complete_new_file", fragile(complete_new_file))
        try:
            repair(path, clock, "a test", ["main"])
        except KilledError:
            clock.advance(s=1)
            done = repair(path, clock, "a test", ["main"])
            assert done.moved_to.exists()
            if left[0] == 0 and done.events:  # else it was interrupted when it was done
                assert done.moved_to.read_bytes() == content
    assert not unfinished(path)
    with SqliteOutbox(path, clock) as outbox:
        assert (outbox.counts().pending, outbox.counts().delivered) == (300, 100)


def test_a_report_that_comes_while_it_is_repaired_is_not_lost(
    path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_report(str(path), '{"n": 1}', 5.0)

    def meanwhile(building: Path) -> None:
        add_report(str(path), '{"n": 2}', 5.0)
        complete_new_file(building)

    monkeypatch.setattr(repairing, "complete_new_file", meanwhile)
    repair(path, clock, "a test", ["main"])
    add_report(str(path), '{"n": 3}', 5.0)
    assert [row[2] for row in contents(path)["reports"]] == ['{"n": 1}', '{"n": 2}', '{"n": 3}']


def test_a_process_that_keeps_the_damaged_file_open_holds_nothing_up(
    path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repairing, "PATIENCE_S", 0.1)
    with SqliteOutbox(path, clock) as outbox:
        outbox.counts()
        assert repair(path, clock, "a test", ["main"]).events == EVENTS
    assert len(deployments(path, clock)) == EVENTS


# ---- what does not fit together any more


def test_a_project_whose_name_is_lost_is_read_in_the_ids_of_its_deployments(path: Path, clock: FakeClock) -> None:
    sql(path, INSERT_JOB.format(401, 400))
    before = deployments(path, clock)
    sql(path, "PRAGMA foreign_keys = OFF", "DELETE FROM projects")
    assert repair(path, clock, "malformed", ["main"]).events == EVENTS
    assert deployments(path, clock) == before
    assert len(contents(path)["facts"]) == EVENTS


def test_what_is_held_of_a_project_whose_name_is_lost_is_kept_when_another_one_tells_it(
    tmp_path: Path, clock: FakeClock
) -> None:
    path = reporting(tmp_path, clock)
    sql(path, INSERT_JOB.format(9, 8), "DELETE FROM projects")
    assert repair(path, clock, "malformed", ["main"]).events == 3
    [held] = [row for row in deployments(path, clock).values() if not row.frozen]
    assert held.run == jenkins_run("main", JOB, 7)


def test_without_a_name_a_deployment_keeps_its_id(path: Path, clock: FakeClock) -> None:
    ids = set(deployments(path, clock))
    sql(path, "DELETE FROM projects", "UPDATE deployments SET logs_url = NULL")
    assert repair(path, clock, "malformed", []).events == EVENTS
    assert set(deployments(path, clock)) == ids


def reporting(tmp_path: Path, clock: FakeClock) -> Path:
    """A build that was polled, one that reported and is held, and a stage that reported itself and is pending."""
    path = tmp_path / "outbox.db"
    with SqliteOutbox(path, clock) as outbox:
        ingest_of(outbox).accept([
            final(6), report(7, environment="staging", image="shop:7"),
            report(8, stage="Deploy", environment="eu", started_at=NOON - HOUR, ended_at=NOON - 90_000, given=WRITTEN),
        ])  # fmt: skip
        assert sorted(row.state for row in outbox.all_deployments()) == [State.HELD, State.PENDING, State.PENDING]
    return path


def test_a_report_that_is_lost_is_in_its_deployment(tmp_path: Path, clock: FakeClock) -> None:
    path = reporting(tmp_path, clock)
    sql(path, "DELETE FROM facts WHERE kind = 'report'")
    repair(path, clock, "malformed", ["main"])
    after = hears_again(path, clock, final(7), final(8))
    assert set(after) == {"main:deploy/shop#6", "main:deploy/shop#7", "main:deploy/shop#8:eu"}
    told = after["main:deploy/shop#7"].content
    assert (told.environment, told.image) == ("staging", "shop:7")


def test_the_build_of_a_report_that_is_held_is_asked_for(tmp_path: Path, clock: FakeClock) -> None:
    path = reporting(tmp_path, clock)
    sql(path, "DELETE FROM wanted_builds")
    repair(path, clock, "a test", ["main"])
    with SqliteOutbox(path, clock) as outbox:
        assert [(each.full_name, each.number) for each in outbox.wanted_builds("main")] == [(JOB, 7)]


def test_a_deployment_that_is_lost_is_made_again_of_its_report(tmp_path: Path, clock: FakeClock) -> None:
    path = reporting(tmp_path, clock)
    sql(path, "DELETE FROM deployments")
    assert repair(path, clock, "malformed", ["main"]).events == 0
    after = hears_again(path, clock)
    assert set(after) == {"main:deploy/shop#6", "main:deploy/shop#7", "main:deploy/shop#8:eu"}
    assert {row.state for row in after.values()} == {State.PENDING}
    assert after["main:deploy/shop#7"].content.image == "shop:7"


def test_one_of_the_stages_of_a_build_that_is_lost_is_made_again(tmp_path: Path, clock: FakeClock) -> None:
    path = tmp_path / "outbox.db"
    said = [final(number, stages=("Build", "Deploy eu", "Deploy us")) for number in range(1, 60)]
    with SqliteOutbox(path, clock) as outbox:
        ingest_of(outbox, by_stage()).accept(said)
        ids = {row.deployment_id for row in outbox.all_deployments()}
    assert len(ids) == 2 * 59
    overwrite(path, pages_of(path, "deployments")[2:3])
    assert repair(path, clock, "malformed", ["main"]).events < 2 * 59
    assert set(hears_again(path, clock, stages=True)) == ids


def test_a_file_of_an_older_version_is_repaired_as_well(tmp_path: Path, clock: FakeClock) -> None:
    path = unpacked(tmp_path)
    with closing(sqlite3.connect(path)) as connection:
        before = connection.execute("SELECT id, deployment_id, state, attempts FROM events ORDER BY id").fetchall()
    done = repair(path, clock, "malformed", POLLED)
    assert done.events == len(before) == 66
    with SqliteOutbox(path, clock) as outbox:
        after = list(outbox.all_deployments())
        assert [(row.number, row.state.value, row.attempts) for row in after] == [
            (number, state, attempts) for number, _, state, attempts in before
        ]
        assert [row.deployment_id for row in after if row.frozen] == [row[1] for row in before if row[2] != "held"]
        third = outbox.find("main:deploy/shop#3")
        assert third is not None
        assert [each.n for each in outbox.attempts(third)] == [1, *range(11, 31)]
        assert len(outbox.reports(10)) == 3
        assert outbox.jobs("main") == {}
        [former] = outbox.former_names(msgspec.structs.replace(third.run.project, name="deploy/after"))
        assert former.name == "deploy/before"
    found = contents(path)
    assert (len(found["forgotten"]), len(found["missed"]), len(found["repairs"])) == (5, 1, 2)


def test_a_repair_that_an_older_version_began_comes_to_its_end(tmp_path: Path, clock: FakeClock) -> None:
    path = unpacked(tmp_path).rename(tmp_path / "outbox.db.recovered").with_name("outbox.db")
    sql(
        tmp_path / "outbox.db.recovered",
        f"INSERT INTO repairs VALUES ({NOON}, 'outbox.db.damaged-then', 'junk', 66, 5)",
    )
    path.write_bytes(b"junk")
    assert unfinished(path)
    done = repair(path, clock, "its repair was interrupted", POLLED)
    assert (done.moved_to.name, done.events, done.moved_to.read_bytes()) == ("outbox.db.damaged-then", 66, b"junk")
    assert not unfinished(path)
    assert len(deployments(path, clock)) == 66 - 5  # those that are held have no id yet


@pytest.mark.parametrize("seed", range(8))
def test_whichever_pages_of_an_older_file_are_broken_the_new_one_is_sound(
    tmp_path: Path, clock: FakeClock, seed: int
) -> None:
    path = unpacked(tmp_path)
    overwrite(path, random.Random(seed).sample(range(1, path.stat().st_size // PAGE), 6))
    repair(path, clock, "database disk image is malformed", POLLED)
    contents(path)
    deployments(path, clock)


# ---- what the damage took


def known(outbox: Outbox) -> list[str | None]:
    return [row.deployment_id for row in outbox.all_deployments()]


def test_builds_whose_events_were_lost_are_read_again_and_no_other_is_doubled(
    tmp_path: Path, clock: FakeClock, jenkins: LocalJenkins, controller: JenkinsSettings
) -> None:
    jenkins.add_job("deploy/shop")
    jenkins.add_builds("deploy/shop", 40, every=60_000, repo="https://github.example.test/acme/shop.git")
    clock.advance(s=60)
    path = tmp_path / "outbox.db"
    with SqliteOutbox(path, clock) as outbox:
        assert len(poll(replace(controller, since="1d"), outbox).enqueued) == 40
        outbox.settle([success(claimed) for claimed in outbox.claim(30)])
    pages = path.stat().st_size // PAGE
    overwrite(path, list(range(pages - 3, pages)))
    repair(path, clock, "database disk image is malformed", [controller.name])
    with SqliteOutbox(path, clock) as outbox:
        poll(controller, outbox)
        ingest_of(outbox).release()
        found = known(outbox)
    assert sorted(map(str, found)) == sorted(f"main:deploy/shop#{number}" for number in range(1, 41))


def test_a_controller_whose_state_was_lost_is_read_again_although_since_says_now(
    tmp_path: Path, clock: FakeClock, jenkins: LocalJenkins, controller: JenkinsSettings
) -> None:
    jenkins.add_job("deploy/shop")
    jenkins.add_builds("deploy/shop", 3, every=60_000, repo="https://github.example.test/acme/shop.git")
    clock.advance(s=60)
    path = tmp_path / "outbox.db"
    path.write_bytes(bytes(8 * PAGE))
    with pytest.raises(DamagedError):
        SqliteOutbox(path, clock)
    repair(path, clock, "file is not a database", [controller.name])
    with SqliteOutbox(path, clock) as outbox:
        assert len(poll(controller, outbox).enqueued) == 3


def test_without_room_for_a_new_file_the_damaged_one_stays(path: Path, clock: FakeClock) -> None:
    overwrite(path, [2, 3, 4])
    before = path.read_bytes()
    path.with_name("outbox.db.recovering").mkdir()
    with pytest.raises(OutboxError, match="cannot be repaired"):
        repair(path, clock, "malformed", ["main"])
    assert path.read_bytes() == before
