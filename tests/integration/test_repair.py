"""A damaged outbox: the service starts all the same, nothing is deleted, and what can be read is kept."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from agent.outbox.sqlite import repair as repairing
from agent.outbox.values import DamagedError, OutboxError
from agent.outbox.sqlite.repair import REREAD_MS, repair, unfinished
from agent.outbox.sqlite.store import Outbox, State
from tests.integration.support import NOON, poll
from tests.integration.test_outbox import entry, settlement

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.config.settings import JenkinsSettings
    from agent.sandbox.jenkins import LocalJenkins
    from tests.integration.support import FakeClock

PAGE = 4096
EVENTS = 400


@pytest.fixture
def path(tmp_path: Path, clock: FakeClock) -> Path:
    """An outbox with 400 events, the first 100 of them delivered."""
    path = tmp_path / "outbox.db"
    with Outbox(path, clock) as outbox:
        outbox.enqueue(entry(number) for number in range(1, EVENTS + 1))
        outbox.settle([settlement(row_id, State.DELIVERED) for row_id in range(1, 101)])
    return path


def overwrite(path: Path, pages: list[int], junk: bytes = b"\xa5") -> None:
    with path.open("r+b") as file:
        for page in pages:
            file.seek(page * PAGE)
            file.write(junk * (PAGE // len(junk)))


def test_a_file_that_is_no_database_is_moved_aside_and_the_agent_can_start(path: Path, clock: FakeClock) -> None:
    content = b"this was an outbox once\n" * 100
    path.write_bytes(content)
    with pytest.raises(DamagedError):
        Outbox(path, clock)
    done = repair(path, clock, "file is not a database", ["main"])
    assert done.moved_to.name == "outbox.db.damaged-20261123T120000Z"
    assert done.moved_to.read_bytes() == content
    assert (done.events, done.reread_from) == (0, NOON - REREAD_MS)
    with Outbox(path, clock) as outbox:
        assert outbox.counts().pending == 0


TABLE_LEAF = 13  # what SQLite writes first into a page that holds rows


@pytest.mark.parametrize("seed", range(12))
def test_whichever_pages_are_broken_the_new_file_is_sound(path: Path, clock: FakeClock, seed: int) -> None:
    pages = range(1, path.stat().st_size // PAGE)
    overwrite(path, random.Random(seed).sample(pages, 3), junk=[b"\x00", b"\xa5", b"\xff\x17"][seed % 3])
    done = repair(path, clock, "database disk image is malformed", ["main"])
    with Outbox(path, clock) as outbox:
        counts = outbox.counts()
        assert counts.pending + counts.delivered == done.events
        assert outbox.connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        for row in outbox.rows(None, EVENTS):
            assert row.deployment_id in (row.payload or "")


@pytest.mark.parametrize("seed", range(6))
def test_broken_rows_take_no_others_with_them(path: Path, clock: FakeClock, seed: int) -> None:
    content = path.read_bytes()
    chunks = [content[page * PAGE : (page + 1) * PAGE] for page in range(len(content) // PAGE)]
    leaves = [page for page, chunk in enumerate(chunks) if chunk[0] == TABLE_LEAF and b"CREATE" not in chunk]
    overwrite(path, random.Random(seed).sample(leaves, 3))
    done = repair(path, clock, "database disk image is malformed", ["main"])
    assert done.events >= EVENTS - 3 * 12  # a page holds some five events, or many of the short attempts


def test_what_was_recovered_keeps_its_state_and_its_attempts(path: Path, clock: FakeClock) -> None:
    done = repair(path, clock, "a test", ["main"])
    assert done.events == EVENTS
    with Outbox(path, clock) as outbox:
        assert (outbox.counts().delivered, outbox.counts().pending) == (100, 300)
        row = outbox.find("main:deploy/shop#1")
        assert row is not None
        assert len(outbox.attempts(row)) == 1
        assert outbox.enqueue([entry(1)]) == []


def test_what_is_only_in_the_log_beside_the_file_is_recovered_too(tmp_path: Path, clock: FakeClock) -> None:
    path = tmp_path / "outbox.db"
    outbox = Outbox(path, clock)
    outbox.enqueue([entry(1), entry(2)])
    assert path.with_name("outbox.db-wal").stat().st_size > 0
    done = repair(path, clock, "a test", ["main"])
    assert done.events == 2
    assert done.moved_to.with_name(done.moved_to.name + "-wal").exists()
    outbox.close()


class KilledError(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("step", range(1, 11))
def test_a_repair_that_was_interrupted_goes_on(
    path: Path, clock: FakeClock, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before the first, second, … change of the folder."""
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
        patched.setattr(repairing.os, "link", fragile(os.link))
        try:
            repair(path, clock, "a test", ["main"])
        except KilledError:
            clock.advance(s=1)
            assert repair(path, clock, "a test", ["main"]).events == EVENTS
    assert not unfinished(path)
    with Outbox(path, clock) as outbox:
        assert (outbox.counts().pending, outbox.counts().delivered) == (300, 100)


def test_builds_whose_events_were_lost_are_read_again_and_no_other_is_doubled(
    tmp_path: Path, clock: FakeClock, jenkins: LocalJenkins, controller: JenkinsSettings
) -> None:
    jenkins.add_job("deploy/shop")
    jenkins.add_builds("deploy/shop", 40, every=60_000, repo="https://github.example.test/acme/shop.git")
    clock.advance(s=60)
    path = tmp_path / "outbox.db"
    with Outbox(path, clock) as outbox:
        assert len(poll(replace(controller, since="1d"), outbox).enqueued) == 40
        outbox.settle([settlement(row_id, State.DELIVERED) for row_id in range(1, 31)])
    pages = path.stat().st_size // PAGE
    overwrite(path, list(range(pages - 3, pages)))
    repair(path, clock, "database disk image is malformed", [controller.name])
    with Outbox(path, clock) as outbox:
        poll(controller, outbox)
        known = sorted(row.deployment_id for row in outbox.rows(None, 1000))
    assert known == sorted(f"main:deploy/shop#{number}" for number in range(1, 41))


def test_a_controller_whose_state_was_lost_is_read_again_although_since_says_now(
    tmp_path: Path, clock: FakeClock, jenkins: LocalJenkins, controller: JenkinsSettings
) -> None:
    jenkins.add_job("deploy/shop")
    jenkins.add_builds("deploy/shop", 3, every=60_000, repo="https://github.example.test/acme/shop.git")
    clock.advance(s=60)
    path = tmp_path / "outbox.db"
    path.write_bytes(bytes(8 * PAGE))
    with pytest.raises(DamagedError):
        Outbox(path, clock)
    repair(path, clock, "file is not a database", [controller.name])
    with Outbox(path, clock) as outbox:
        assert len(poll(controller, outbox).enqueued) == 3


def test_without_room_for_a_new_file_the_damaged_one_stays(path: Path, clock: FakeClock) -> None:
    overwrite(path, [2, 3, 4])
    before = path.read_bytes()
    path.with_name("outbox.db.recovering").mkdir()
    with pytest.raises(OutboxError, match="cannot be repaired"):
        repair(path, clock, "malformed", ["main"])
    assert path.read_bytes() == before
