"""Writing a configuration: texts that are read back as they were, and files that are all there or not at all."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import writing
from agent.config.writing import Controller, Draft, NewFile, configuration, token_file_of, with_controller, write_all

if TYPE_CHECKING:
    from pathlib import Path

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(TEXT, TEXT, TEXT, st.lists(TEXT, max_size=3), TEXT)
def test_whatever_was_answered_is_read_back_as_it_was(
    url: str, name: str, username: str, jobs: list[str], environment: str
) -> None:
    draft = Draft(url, None, Controller(url, name, username), name, tuple(jobs), environment)
    read = tomllib.loads(configuration(draft, token_files=True))
    assert (read["hivel"]["url"], read["http"]["contact"]) == (url, name)
    assert read["jenkins"] == [
        {"name": name, "url": url, "username": username, "token_file": "jenkins.token", "since": "now"}
    ]
    assert [each["job"] for each in read.get("deployment", [])] == jobs
    assert {each.get("environment", draft.environment) for each in read.get("deployment", [])} <= {environment}


@given(TEXT, st.booleans())
def test_a_controller_is_appended_behind_every_byte_that_was_there(name: str, ends: bool) -> None:
    before = b"[hivel]\r\nurl = 'x'\r\n[[jenkins]]\nurl = 'a' # \xc3\xa4" + (b"\n" if ends else b"")
    after = with_controller(before, Controller("b", name, None), None)
    assert after.startswith(before)
    assert tomllib.loads(after.decode())["jenkins"] == [{"url": "a"}, {"name": name, "url": "b", "since": "now"}]


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b", "a\n", "ä", "a:8080"])
def test_a_name_that_is_none_for_a_file_gives_none(name: str) -> None:
    assert token_file_of(name) is None


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mode & 0o777) for path in folder.iterdir()}


def test_when_one_file_cannot_be_replaced_none_is_and_nothing_is_left_beside_them(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("before")
    (tmp_path / "a").chmod(0o604)
    (tmp_path / "b").mkdir()
    before = (tmp_path / "a").read_bytes()
    with pytest.raises(OSError, match="directory"):
        write_all([NewFile(tmp_path / "a", b"after", 0o600), NewFile(tmp_path / "b", b"x", 0o600)], "now")
    assert (tmp_path / "a").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_an_interruption_before_the_first_file_is_replaced_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_text("before")
    before = snapshot(tmp_path)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(writing.os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_all([NewFile(tmp_path / "a", b"after", 0o600)], "now")
    assert snapshot(tmp_path) == before


def test_a_second_backup_of_the_same_second_has_a_name_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "a"
    for text in (b"1", b"2", b"3"):
        write_all([NewFile(file, text, 0o600)], "now")
    assert {name: content for name, (content, _) in snapshot(tmp_path).items()} == {
        "a": b"3", "a.bak-now": b"1", "a.bak-now-2": b"2",
    }  # fmt: skip
