"""A glance at files says when a look is needed: at once after a change, and now and then in any case."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.daemon.changes import BELIEVED, Changes
from agent.model.times import Clock
from agent.outbox.sqlite.engine import SqliteOutbox

if TYPE_CHECKING:
    from pathlib import Path


def looks(changes: Changes) -> bool:
    """Look if the glance asks for it, and find everything."""
    noticed = changes.noticed()
    if noticed:
        changes.looked()
    return noticed


def test_the_first_glance_asks_for_a_look(tmp_path: Path) -> None:
    assert looks(Changes(tmp_path / "nothing"))


def test_without_a_change_a_look_is_asked_for_now_and_then(tmp_path: Path) -> None:
    changes = Changes(tmp_path / "nothing", tmp_path)
    looked = [looks(changes) for _ in range(1 + 3 * (BELIEVED + 1))]
    assert looked == [True, *([False] * BELIEVED + [True]) * 3]


def test_a_look_that_failed_is_asked_for_again(tmp_path: Path) -> None:
    changes = Changes(tmp_path)
    assert [changes.noticed() for _ in range(10)] == [True] * 10
    assert looks(changes)
    assert not looks(changes)


def test_a_report_that_is_stored_by_another_connection_is_noticed_at_once(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    with SqliteOutbox(path, Clock()) as reader, SqliteOutbox(path, Clock()) as writer:
        changes = Changes(tmp_path / "outbox.db-wal")
        assert looks(changes)
        for _ in range(3):
            assert not looks(changes)
            writer.add_report("{}")
            assert looks(changes)
            assert reader.reports(10)


def test_a_file_that_is_moved_into_a_folder_is_noticed_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    changes = Changes(folder)
    assert looks(changes)
    folder.mkdir()
    assert looks(changes)
    assert not looks(changes)
    (tmp_path / "report.json").write_text("{}")
    (tmp_path / "report.json").rename(folder / "report.json")
    assert looks(changes)
