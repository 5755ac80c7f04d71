"""The outbox on a real file: what is stored stays, once, and several processes share it."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.config.rules import Pattern
from agent.ingest.replay import choose
from agent.model import event as events
from agent.model.status import Status
from agent.outbox.sqlite.connection import RunLock
from agent.outbox.sqlite.retention import DAY_MS, Retention
from agent.outbox.sqlite.store import CLAIM, Counts, Entry, Outbox, Selection, Settlement, State
from agent.outbox.values import AlreadyRunningError, OutboxError
from tests.integration.support import NOON, FakeClock

if TYPE_CHECKING:
    from pathlib import Path


def entry(number: int, *, started_at: int = NOON, reason: str | None = None) -> Entry:
    name = events.build_deployment_id("main", "deploy/shop", number)
    event = events.completed(
        deployment_id=name,
        status=Status.SUCCESS,
        started_at=started_at,
        ended_at=started_at + 1_000,
        repo_url="https://github.example.test/acme/shop",
        environment="production",
        branch="main",
    )
    return Entry(name, started_at, '{"kept":true}', None if reason else event, reason)


def settlement(row_id: int, state: State, *, counts: bool = True, next_attempt_at: int | None = None) -> Settlement:
    return Settlement(
        id=row_id,
        state=state,
        counts_as_attempt=counts,
        at=NOON,
        duration_ms=12,
        http_status=503 if state is State.PENDING else 200,
        verdict="retry" if state is State.PENDING else "delivered",
        answer="…",
        reason="HTTP 503" if state is State.PENDING else None,
        next_attempt_at=next_attempt_at,
    )


def test_what_is_enqueued_is_there_for_the_next_process(outbox: Outbox, clock: FakeClock) -> None:
    outbox.enqueue([entry(1)])
    with Outbox(outbox.path, clock) as again:
        [due] = again.claim(10)
    assert due.deployment_id == "main:deploy/shop#1"
    assert msgspec.json.decode(due.payload)["environment"] == "production"


def test_the_same_build_is_stored_once(outbox: Outbox) -> None:
    assert len(outbox.enqueue([entry(1), entry(1)])) == 1
    assert outbox.enqueue([entry(1)]) == []
    assert outbox.counts().pending == 1


def test_a_number_used_again_by_another_build_gets_an_id_of_its_own(outbox: Outbox) -> None:
    outbox.enqueue([entry(1)])
    [second] = outbox.enqueue([entry(1, started_at=NOON + 5)])
    assert second.deployment_id == f"main:deploy/shop#1@{NOON + 5}"
    assert outbox.enqueue([entry(1, started_at=NOON + 5)]) == []


def test_of_a_large_batch_only_what_is_new_is_stored(outbox: Outbox, clock: FakeClock) -> None:
    """Some are there, some were there until retention deleted them, one comes twice, and one number is used again."""
    outbox.enqueue(entry(number) for number in range(0, 900, 300))
    outbox.settle([settlement(due.id, State.DELIVERED) for due in outbox.claim(2)])
    clock.advance(ms=DAY_MS)
    assert Retention(outbox, DAY_MS // 2, 400 * DAY_MS).step() is False
    assert outbox.counts() == Counts(pending=1, held=0, delivered=0, failed=0)
    batch = [entry(number) for number in range(1_200)]
    added = outbox.enqueue([*batch, entry(5), entry(300, started_at=NOON + 5)])
    expected = {f"main:deploy/shop#{number}" for number in range(1_200) if number not in (0, 300, 600)}
    assert {each.deployment_id for each in added} == {*expected, f"main:deploy/shop#300@{NOON + 5}"}
    assert len(added) == 1_198
    assert outbox.counts().pending == 1_199


def test_an_event_that_could_not_be_derived_is_failed_with_its_reason(outbox: Outbox) -> None:
    outbox.enqueue([entry(1, reason="no repo_url"), entry(2)])
    [failed] = outbox.rows(State.FAILED, 10)
    assert (failed.reason, failed.payload, failed.source) == ("no repo_url", None, '{"kept":true}')
    assert [due.deployment_id for due in outbox.claim(10)] == ["main:deploy/shop#2"]


def test_a_transaction_is_all_or_nothing(outbox: Outbox) -> None:
    with pytest.raises(RuntimeError, match="crash"), outbox.transaction():
        outbox.enqueue([entry(1)])
        raise RuntimeError("crash")
    assert outbox.counts().pending == 0


def test_claims_come_oldest_first_and_leave_out_what_is_in_flight(outbox: Outbox, clock: FakeClock) -> None:
    for number in (3, 1, 2):
        outbox.enqueue([entry(number)])
        clock.advance(ms=1)
    first = outbox.claim(2)
    assert [due.id for due in first] == [1, 2]
    assert [due.id for due in outbox.claim(2, besides={1, 2})] == [3]


def test_an_event_that_is_to_be_tried_later_is_not_claimed_before(outbox: Outbox, clock: FakeClock) -> None:
    outbox.enqueue([entry(1)])
    outbox.settle([settlement(1, State.PENDING, next_attempt_at=clock.now_ms() + 5_000)])
    assert outbox.claim(10) == []
    clock.advance(s=5)
    [due] = outbox.claim(10)
    assert due.attempts == 1


def test_every_attempt_is_kept(outbox: Outbox) -> None:
    outbox.enqueue([entry(1)])
    outbox.settle([settlement(1, State.PENDING)])
    outbox.settle([settlement(1, State.PENDING, counts=False)])
    outbox.settle([settlement(1, State.DELIVERED)])
    row = outbox.find("1")
    assert row is not None
    assert (row.state, row.attempts, row.source, row.reason) == (State.DELIVERED, 2, None, None)
    assert [(a.http_status, a.verdict) for a in outbox.attempts(row)] == [
        (503, "retry"),
        (503, "retry"),
        (200, "delivered"),
    ]


def test_a_delivered_event_is_not_moved_by_a_late_outcome(outbox: Outbox) -> None:
    outbox.enqueue([entry(1)])
    outbox.settle([settlement(1, State.DELIVERED)])
    outbox.settle([settlement(1, State.PENDING)])
    assert outbox.counts().delivered == 1


def test_counts_follow_every_move(outbox: Outbox) -> None:
    outbox.enqueue([entry(1), entry(2), entry(3, reason="why")])
    outbox.settle([settlement(1, State.DELIVERED)])
    row = outbox.find("3")
    assert row is not None
    assert outbox.replay(row, entry(3).event)
    counted = dict(outbox.connection.execute("SELECT state, count(*) FROM events GROUP BY state").fetchall())
    assert msgspec.to_builtins(outbox.counts()) == {"pending": 2, "held": 0, "delivered": 1, "failed": 0}
    assert counted == {"pending": 2, "delivered": 1}


def test_a_replay_is_of_what_meets_every_condition(outbox: Outbox, clock: FakeClock) -> None:
    outbox.enqueue([entry(1, reason="no branch in the build")])
    clock.advance(s=60)
    outbox.enqueue([entry(2, reason="No Repo_URL in the build"), entry(3)])
    outbox.settle([settlement(3, State.DELIVERED)])

    def chosen(job: str | None = None, **conditions: Any) -> list[int]:
        return choose(outbox, Selection(**conditions), None if job is None else Pattern.parse(job))

    everything = (State.FAILED, State.DELIVERED)
    assert chosen() == [1, 2]
    assert chosen(since=NOON + 1) == [2]
    assert chosen(until=NOON + 1) == [1]
    assert chosen(states=(State.DELIVERED,)) == [3]
    assert chosen(states=everything, environment="production") == [3]
    assert chosen(states=everything, environment="staging") == []
    assert chosen(error="repo_url") == [2]
    assert chosen(error="100%") == []
    assert chosen("deploy/*", states=everything) == [1, 2, 3]
    assert chosen("other/**", states=everything) == []


def test_commits_are_on_the_disk_before_they_return(outbox: Outbox) -> None:
    settings = {name: outbox.connection.execute(f"PRAGMA {name}").fetchone()[0] for name in
                ("synchronous", "journal_mode", "auto_vacuum", "foreign_keys")}  # fmt: skip
    assert settings == {"synchronous": 2, "journal_mode": "wal", "auto_vacuum": 2, "foreign_keys": 1}


def test_the_file_is_readable_by_its_owner_only(outbox: Outbox) -> None:
    assert outbox.path.stat().st_mode & 0o077 == 0


def test_a_file_of_a_newer_agent_is_refused(tmp_path: Path, clock: FakeClock) -> None:
    with Outbox(tmp_path / "o.db", clock) as outbox:
        outbox.connection.execute("PRAGMA user_version = 99")
    with pytest.raises(OutboxError, match="newer hivel-agent"):
        Outbox(tmp_path / "o.db", clock)


def test_a_file_that_is_no_database_is_a_clear_error(tmp_path: Path, clock: FakeClock) -> None:
    (tmp_path / "o.db").write_text("not a database, but long enough to look like one " * 40)
    with pytest.raises(OutboxError, match=r"o\.db is damaged \(file is not a database\)"):
        Outbox(tmp_path / "o.db", clock)


def test_a_path_that_cannot_be_made_is_a_clear_error(tmp_path: Path, clock: FakeClock) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutboxError, match=r"is \[outbox\] path right and writable"):
        Outbox(tmp_path / "file" / "o.db", clock)


def test_several_processes_make_and_fill_one_file_together(tmp_path: Path, clock: FakeClock) -> None:
    program = (
        "import sys; from pathlib import Path; from agent.outbox.sqlite.store import Outbox;"
        "from agent.model.times import Clock;"
        "from tests.integration.test_outbox import entry\n"
        "with Outbox(Path(sys.argv[1]), Clock()) as o:\n"
        "    for n in range(100): o.enqueue([entry(n)])\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "o.db")], stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    errors = [process.communicate(timeout=60)[1] for process in processes]
    assert (errors, [process.returncode for process in processes]) == ([""] * 4, [0] * 4)
    with Outbox(tmp_path / "o.db", clock) as outbox:
        assert outbox.counts().pending == 100


def test_a_reader_never_waits_for_a_writer(outbox: Outbox, clock: FakeClock) -> None:
    outbox.enqueue([entry(1)])
    with Outbox(outbox.path, clock) as other, outbox.transaction():
        outbox.enqueue([entry(2)])
        assert other.counts().pending == 1


def test_a_look_from_another_process_loses_nothing_of_a_process_with_several_connections(
    outbox: Outbox, clock: FakeClock
) -> None:
    look = (
        "import sys; from pathlib import Path; from agent.outbox.sqlite.store import Outbox;"
        "from agent.model.times import Clock\n"
        "with Outbox(Path(sys.argv[1]), Clock()) as o: print(o.counts().pending)\n"
    )
    with Outbox(outbox.path, clock):
        for expected in ("0", "1"):
            done = subprocess.run(
                [sys.executable, "-c", look, str(outbox.path)], capture_output=True, text=True, check=True
            )
            assert done.stdout.strip() == expected
            outbox.enqueue([entry(int(expected))])
    with Outbox(outbox.path, clock) as again:
        assert again.counts().pending == 2


def test_the_run_lock_has_one_holder_and_ends_with_it(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    assert RunLock(path).holder() is None
    with RunLock(path):
        assert RunLock(path).holder() == __import__("os").getpid()
        with pytest.raises(AlreadyRunningError, match="already works on the outbox"), RunLock(path):
            pass
    assert RunLock(path).holder() is None
    with RunLock(path):
        pass


def test_a_claim_uses_the_index_of_what_is_due(outbox: Outbox) -> None:
    plan = outbox.connection.execute(f"EXPLAIN QUERY PLAN {CLAIM}", (NOON, 5)).fetchall()
    assert [row[3] for row in plan] == ["SEARCH events USING INDEX events_by_state (state=?)"]


@settings(deadline=None, max_examples=50)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("enqueue"), st.sampled_from(["pending", "held", "failed"])),
            st.tuples(st.just("settle"), st.sampled_from([State.DELIVERED, State.FAILED, State.PENDING])),
            st.tuples(st.sampled_from(["delete", "replay"]), st.floats(0, 1, exclude_max=True)),
        ),
        max_size=30,
    )
)
def test_the_counts_are_those_of_the_rows(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, Any]]
) -> None:
    """Also when the newest rows are deleted and their ids are given away again."""
    with Outbox(tmp_path_factory.mktemp("counts") / "o.db", FakeClock()) as outbox:
        for number, (step, how) in enumerate(steps):
            rows = outbox.rows(None, 100)
            if step == "enqueue":
                new = entry(number, reason="why" if how == "failed" else None)
                outbox.enqueue([replace(new, hold_until=NOON + 1_000) if how == "held" else new])
            elif step == "settle":
                outbox.settle([settlement(due.id, how) for due in outbox.claim(1)])
            elif rows and step == "delete":
                outbox.connection.execute("DELETE FROM events WHERE id = ?", (rows[int(how * len(rows))].id,))
            elif rows:
                outbox.replay(rows[int(how * len(rows))])
            found = outbox.connection.execute("SELECT state, count(*) FROM events GROUP BY state").fetchall()
            assert outbox.counts() == Counts(**({state.value: 0 for state in State} | dict(found)))


def test_the_schema_refuses_a_state_that_does_not_exist(outbox: Outbox) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        outbox.connection.execute(
            "INSERT INTO events (deployment_id, state, started_at, created_at, next_attempt_at) VALUES ('x','?',0,0,0)"
        )
