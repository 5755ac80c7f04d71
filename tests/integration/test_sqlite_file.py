"""The outbox as a file: durable, its owner's alone, shared by processes, of one version, and full disks."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agent.model.deployment import State
from agent.outbox.sqlite import migrations
from agent.outbox.sqlite.connection import RunLock
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.outbox.sqlite.inbox import NoPlaceError, add_report
from agent.outbox.values import Change, DamagedError, OutboxError
from tests.conformance.things import deployment, finished, inserted, run, stored
from tests.integration.support import FakeClock

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "o.db"


@pytest.fixture
def outbox(path: Path, clock: FakeClock) -> Iterator[SqliteOutbox]:
    with SqliteOutbox(path, clock) as outbox:
        yield outbox


def ask(path: Path, sql: str) -> list[tuple[object, ...]]:
    """With a connection of one's own."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


def python(program: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


# ---- the file


def test_commits_are_on_the_disk_before_they_return(outbox: SqliteOutbox) -> None:
    names = ("synchronous", "journal_mode", "auto_vacuum", "foreign_keys")
    settings = {name: outbox._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names}
    assert settings == {"synchronous": 2, "journal_mode": "wal", "auto_vacuum": 2, "foreign_keys": 1}


def test_the_file_is_readable_by_its_owner_only(outbox: SqliteOutbox) -> None:
    assert outbox.path.stat().st_mode & 0o077 == 0


def test_a_folder_that_is_made_for_the_file_is_closed_to_others(tmp_path: Path, clock: FakeClock) -> None:
    before = os.umask(0)
    try:
        SqliteOutbox(tmp_path / "new" / "outbox.db", clock).close()
    finally:
        os.umask(before)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o750


def test_a_new_file_has_the_newest_version_and_is_sound(outbox: SqliteOutbox) -> None:
    assert ask(outbox.path, "PRAGMA user_version") == [(migrations.VERSION,)]
    assert outbox.find_damage() is None
    assert outbox.last_repair() is None


def test_a_file_of_a_newer_agent_is_refused(path: Path, clock: FakeClock) -> None:
    with SqliteOutbox(path, clock) as outbox:
        outbox._connection.execute("PRAGMA user_version = 99")
    known = rf"newer hivel-agent \(format version 99; this version reads up to {migrations.VERSION}\)"
    with pytest.raises(OutboxError, match=known):
        SqliteOutbox(path, clock)


@pytest.mark.parametrize("version", [1, 3, 5])
def test_a_file_of_an_older_agent_is_left_as_it_is(tmp_path: Path, clock: FakeClock, version: int) -> None:
    path = tmp_path / "o.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE events (id INTEGER PRIMARY KEY)")
        connection.execute(f"PRAGMA user_version = {version}")
    before = path.read_bytes()
    with pytest.raises(OutboxError, match="an older version; it is upgraded when hivel-agent run or once starts"):
        SqliteOutbox(path, clock)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["o.db"]


@pytest.mark.parametrize(
    ("progress", "told"),
    [("37", "is being upgraded, 37 %;"), ("", "is being upgraded;"), (None, "is being upgraded;")],
)
def test_a_file_that_is_being_upgraded_says_how_far_that_is(
    tmp_path: Path, clock: FakeClock, progress: str | None, told: str
) -> None:
    path = tmp_path / "o.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 5")
    (tmp_path / "o.db.upgrading").touch()
    if progress is not None:
        (tmp_path / "o.db.upgrading-progress").write_text(progress)
    with RunLock(path), pytest.raises(OutboxError, match=told):
        SqliteOutbox(path, clock)
    with pytest.raises(OutboxError, match="an older version"):  # whoever upgraded it is gone
        SqliteOutbox(path, clock)


def test_a_file_that_is_no_database_is_a_clear_error(tmp_path: Path, clock: FakeClock) -> None:
    (tmp_path / "o.db").write_text("not a database, but long enough to look like one " * 40)
    with pytest.raises(DamagedError, match=r"o\.db is damaged \(file is not a database\)"):
        SqliteOutbox(tmp_path / "o.db", clock)


def test_a_path_that_cannot_be_made_is_a_clear_error(tmp_path: Path, clock: FakeClock) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutboxError, match=r"is \[outbox\] path correct and writable"):
        SqliteOutbox(tmp_path / "file" / "o.db", clock)


# ---- several processes

FILL = """
import sys
from pathlib import Path
from agent.model.times import Clock
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.outbox.values import Change
from tests.conformance.things import deployment, finished, run
with SqliteOutbox(Path(sys.argv[1]), Clock()) as outbox:
    for number in range(1, 101):
        with outbox.transaction():
            known = outbox.load([run(number)])[run(number)]
            if not known.facts:
                outbox.store([Change(facts=(finished(run(number)),), inserted=(deployment(number),))])
"""
LOOK = """
import sys
from pathlib import Path
from agent.model.times import Clock
from agent.outbox.sqlite.engine import SqliteOutbox
with SqliteOutbox(Path(sys.argv[1]), Clock()) as outbox:
    print(outbox.counts().pending)
"""


def test_several_processes_make_and_fill_one_file_together(path: Path, clock: FakeClock) -> None:
    processes = [python(FILL, path) for _ in range(4)]
    errors = [process.communicate(timeout=240)[1] for process in processes]
    assert (errors, [process.returncode for process in processes]) == ([""] * 4, [0] * 4)
    with SqliteOutbox(path, clock) as outbox:
        assert outbox.counts().pending == 100
        assert [len(state.facts) for state in outbox.load([run(n) for n in range(1, 101)]).values()] == [1] * 100


def test_a_look_from_another_process_loses_nothing_of_a_process_with_several_connections(
    outbox: SqliteOutbox, clock: FakeClock
) -> None:
    with SqliteOutbox(outbox.path, clock):
        for expected in ("0", "1"):
            look = python(LOOK, outbox.path)
            assert look.communicate(timeout=240)[0].strip() == expected
            inserted(outbox, deployment(int(expected) + 1))
    with SqliteOutbox(outbox.path, clock) as again:
        assert again.counts().pending == 2


def test_a_writer_waits_for_another_and_then_says_so(
    outbox: SqliteOutbox, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.outbox.sqlite.connection.BUSY_DEADLINE_S", 0.05)
    with SqliteOutbox(outbox.path, clock) as other, other.transaction():
        for write in (outbox.try_writing, lambda: inserted(outbox, deployment(1)), lambda: outbox.add_report("{}")):
            with pytest.raises(OutboxError, match="locked"):
                write()
    inserted(outbox, deployment(1))


# ---- the inbox of emit


def test_emit_stores_a_report_beside_an_open_outbox(outbox: SqliteOutbox) -> None:
    add_report(str(outbox.path), '{"a":1}', 1.0)
    assert [report.body for report in outbox.reports(9)] == ['{"a":1}']


def test_emit_finds_no_place_in_a_full_outbox(outbox: SqliteOutbox) -> None:
    with pytest.raises(NoPlaceError, match="is full"):
        add_report(str(outbox.path), "{}", 1.0, max_size=outbox.size())
    assert outbox.reports(9) == []
    add_report(str(outbox.path), "{}", 1.0, max_size=outbox.size() + 1)
    assert len(outbox.reports(9)) == 1


def test_emit_never_writes_the_log_back(outbox: SqliteOutbox) -> None:
    """That takes time, and whoever runs emit waits for a build."""
    log = outbox.path.with_name("o.db-wal")
    outbox.add_report("x" * 8_000_000)
    before = outbox.path.stat().st_size
    large = log.stat().st_size
    assert large > 1_200 * 4096
    add_report(str(outbox.path), "{}", 1.0)
    assert outbox.path.stat().st_size == before
    assert log.stat().st_size >= large


# ---- a full disk, a damaged file


def test_a_disk_that_is_full_in_the_middle_stores_nothing_and_harms_nothing(outbox: SqliteOutbox) -> None:
    inserted(outbox, deployment(1))
    pages = outbox._connection.execute("PRAGMA page_count").fetchone()[0]
    outbox._connection.execute(f"PRAGMA max_page_count = {pages + 3}")
    many = [Change(facts=(finished(run(n)),), inserted=(deployment(n),)) for n in range(2, 2_000)]
    for nested in (False, True):
        with pytest.raises(OutboxError, match="no space left for the outbox"):
            if nested:
                with outbox.transaction():
                    inserted(outbox, deployment(9_998))
                    outbox.store(many)
            else:
                outbox.store(many)
        assert [each.run for each in outbox.all_deployments()] == [run(1)]
    outbox._connection.execute("PRAGMA max_page_count = 1000000")
    outbox.store(many)
    assert outbox.counts().pending == 1_999
    assert outbox.find_damage() is None


def test_nothing_goes_on_in_a_transaction_that_a_full_disk_ended(outbox: SqliteOutbox) -> None:
    """SQLite rolls all of it back: what came then would be stored alone."""
    pages = outbox._connection.execute("PRAGMA page_count").fetchone()[0]
    outbox._connection.execute(f"PRAGMA max_page_count = {pages + 3}")
    many = [Change(inserted=(deployment(n),)) for n in range(2, 2_000)]
    with pytest.raises(OutboxError, match="stored nothing"), outbox.transaction():
        inserted(outbox, deployment(9_998))
        with pytest.raises(OutboxError, match="no space left"):
            outbox.store(many)
        with pytest.raises(OutboxError, match="stored nothing"):
            inserted(outbox, deployment(1))
        with pytest.raises(OutboxError, match="stored nothing"), outbox.transaction():
            inserted(outbox, deployment(1))
    assert list(outbox.all_deployments()) == []


def damage(outbox: SqliteOutbox, sql: str) -> None:
    outbox._connection.execute("PRAGMA ignore_check_constraints = ON")
    outbox._connection.execute(sql)


@pytest.mark.parametrize(
    "assignment", ["state = 'x'", "status = 'x'", "scope = 'x'", "names = '[['", "pr_numbers = '{}'", "project_id = 99"]
)
def test_a_deployment_that_makes_no_sense_is_damage(outbox: SqliteOutbox, assignment: str) -> None:
    inserted(outbox, deployment(1))
    damage(outbox, f"UPDATE deployments SET {assignment}")
    with pytest.raises(DamagedError, match=r"o\.db is damaged"):
        list(outbox.all_deployments())


def test_text_that_is_none_is_damage(outbox: SqliteOutbox) -> None:
    inserted(outbox, deployment(1))
    damage(outbox, "UPDATE deployments SET environment = CAST(x'ff' AS TEXT)")
    for look in (lambda: outbox.claim(1), lambda: stored(outbox, 1), lambda: outbox.load([run(1)])):
        with pytest.raises(DamagedError, match="Could not decode to UTF-8"):
            look()


@pytest.mark.parametrize("assignment", ["body = '{'", 'body = \'{"started_at":"x"}\'', "kind = 'of a newer agent'"])
def test_a_fact_that_cannot_be_read_stops_nothing(outbox: SqliteOutbox, assignment: str) -> None:
    outbox.store([Change(facts=(finished(run(1)), finished(run(2))))])
    damage(outbox, f"UPDATE facts SET {assignment} WHERE run = '1'")
    states = outbox.load([run(1), run(2)])
    assert [fact.kind.value for fact in states[run(1)].facts] == ["unreadable"]
    assert states[run(2)].facts == (finished(run(2)),)


def test_counts_are_set_right_after_rows_were_inserted_in_another_way(outbox: SqliteOutbox) -> None:
    inserted(outbox, deployment(1), deployment(2, State.FAILED))
    outbox._connection.execute("DELETE FROM counts")
    outbox._connection.execute("INSERT INTO counts VALUES ('delivered', 7), ('no row', 9)")
    migrations.recount(outbox._connection)
    assert (outbox.counts().pending, outbox.counts().failed, outbox.counts().delivered) == (1, 1, 0)
