"""The outbox file has other names, or loses its own while the agent works on it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import httpx
import pytest

from agent.model.times import Clock
from agent.outbox.sqlite.connection import Moved, RunLock
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.outbox.values import AlreadyRunningError
from agent.sandbox.hivel import Fault
from tests.integration.support import REPO, Agent, wait_until
from tests.integration.test_monitoring import address, ready

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from subprocess import Popen

    from agent.sandbox.hivel import LocalHivel
    from agent.sandbox.jenkins import LocalJenkins

JOB = "deploy/shop"


def symlink(link: Path, outbox: Path) -> None:
    link.symlink_to(outbox)


def symlink_to_symlink(link: Path, outbox: Path) -> None:
    link.with_name("between").symlink_to(outbox)
    link.symlink_to(link.with_name("between"))


def hard_link(link: Path, outbox: Path) -> None:
    link.hardlink_to(outbox)


def symlink_to_hard_link(link: Path, outbox: Path) -> None:
    link.with_name("between").hardlink_to(outbox)
    link.symlink_to(link.with_name("between"))


# ---- other names


@pytest.mark.usefixtures("daemon")
@pytest.mark.parametrize("verb", ["run", "once"])
@pytest.mark.parametrize("give", [symlink, symlink_to_symlink, hard_link, symlink_to_hard_link])
def test_a_second_agent_on_the_same_file_under_another_name_refuses_to_start(
    agent: Agent, give: Callable[[Path, Path], None], verb: str
) -> None:
    folder = agent.folder / "other"
    folder.mkdir()
    give(folder / "link.db", agent.outbox)
    agent.config.write_text(agent.config.read_text().replace('"outbox.db"', '"other/link.db"'))
    done = agent.run(verb)
    assert done.returncode == 1, done.stderr
    assert f"uses the outbox {folder / 'link.db'}" in done.stderr or "under another name" in done.stderr


def test_the_lock_is_the_files_and_ends_with_its_holder(tmp_path: Path) -> None:
    path, link = tmp_path / "outbox.db", tmp_path / "other.db"
    SqliteOutbox(path, Clock()).close()
    hard_link(link, path)
    with RunLock(path), pytest.raises(AlreadyRunningError, match="under another name"), RunLock(link):
        pass
    with RunLock(link), pytest.raises(AlreadyRunningError, match="under another name"), RunLock(path):
        pass
    with RunLock(path) as lock:
        assert lock.moved() is None


def test_the_lock_keeps_nobody_from_the_file_but_another_agent(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    SqliteOutbox(path, Clock()).close()
    with RunLock(path):
        for _ in range(2):
            with SqliteOutbox(path, Clock()) as outbox, SqliteOutbox(path, Clock()) as other:
                outbox.want_builds("main", [(JOB, 1)])
                assert other.wanted_builds("main")
            with pytest.raises(AlreadyRunningError), RunLock(path):
                pass  # which closes the file once more
            with SqliteOutbox(path, Clock()) as outbox:
                assert outbox.find_damage() is None


def test_the_lock_follows_the_file_that_gets_the_name(tmp_path: Path) -> None:
    path, other = tmp_path / "outbox.db", tmp_path / "other.db"
    for each in (path, other):
        SqliteOutbox(each, Clock()).close()
    with RunLock(path) as lock:
        path.unlink()
        assert lock.moved() is Moved.DELETED
        other.rename(path)
        assert lock.moved() is Moved.REPLACED
        lock.follow()
        assert lock.moved() is None
        hard_link(other, path)
        with pytest.raises(AlreadyRunningError), RunLock(other):
            pass
    with RunLock(other) as theirs:
        path.unlink()
        other.rename(path)
        with pytest.raises(AlreadyRunningError), RunLock(path):
            pass
        assert theirs.moved() is Moved.DELETED


# ---- no name, or another file's


def build(jenkins: LocalJenkins) -> str:
    [number] = jenkins.add_builds(JOB, 1, repo=REPO)
    return f"main:{JOB}#{number}"


def arrived(hivel: LocalHivel) -> set[str]:
    return {each.event.deployment_id for each in hivel.deployments()}


@pytest.mark.parametrize("names", [["outbox.db"], ["outbox.db", "outbox.db-wal", "outbox.db-shm"], None])
def test_an_outbox_that_is_deleted_under_the_daemon_is_written_again_and_nothing_is_lost(
    agent: Agent, daemon: Popen[str], jenkins: LocalJenkins, hivel: LocalHivel, names: list[str] | None
) -> None:
    delivered = build(jenkins)
    wait_until(lambda: delivered in arrived(hivel), "the first event has arrived")
    wait_until(lambda: agent.json("status")["events"]["delivered"] == 1, "that is noted")
    hivel.fault(Fault(kind="status", status=503, times=1_000))
    waiting = build(jenkins)
    wait_until(lambda: agent.json("status")["events"]["pending"] == 1, "the second event waits")
    for file in [agent.folder / name for name in names or ["outbox.db", "outbox.db.lock"]]:
        file.unlink(missing_ok=True)
    wait_until(lambda: "was deleted while the agent was using it" in agent.log(), "it was noticed")
    wait_until(lambda: agent.log().count("event=started") == 2, "the daemon goes on")
    hivel.clear_faults()
    third = build(jenkins)
    wait_until(lambda: {waiting, third} <= arrived(hivel), "everything has arrived")
    assert {each.times_posted for each in hivel.deployments() if each.event.deployment_id in (delivered, third)} == {1}
    assert agent.run("once").returncode == 1, "there is one at work"
    assert ready(agent)[0] == 200
    daemon.terminate()
    assert daemon.wait(120) == 0
    with SqliteOutbox(agent.outbox, Clock()) as outbox:
        assert (outbox.counts().delivered, outbox.find_damage()) == (3, None)
    assert (agent.outbox.stat().st_mode & 0o777, list(agent.folder.glob("*.rescuing*"))) == (0o600, [])


def test_an_outbox_that_is_replaced_under_the_daemon_is_kept_and_the_daemon_goes_on_with_the_other_one(
    agent: Agent, daemon: Popen[str], jenkins: LocalJenkins, hivel: LocalHivel
) -> None:
    first = build(jenkins)
    wait_until(lambda: agent.json("status")["events"]["delivered"] == 1, "the first event has arrived")
    backup = agent.folder / "backup.db"
    with closing(sqlite3.connect(agent.outbox)) as source, closing(sqlite3.connect(backup)) as copy:
        source.backup(copy)
    second = build(jenkins)
    wait_until(lambda: agent.json("status")["events"]["delivered"] == 2, "the second event has arrived")
    backup.replace(agent.outbox)
    wait_until(lambda: "was replaced by another file while the agent was using it" in agent.log(), "it was noticed")
    wait_until(lambda: agent.json("status")["events"]["delivered"] == 2, "what the backup does not know is read again")
    third = build(jenkins)
    wait_until(lambda: third in arrived(hivel), "the third event has arrived")
    assert arrived(hivel) == {first, second, third}
    [kept] = agent.folder.glob("outbox.db.replaced-*Z")
    with SqliteOutbox(kept, Clock()) as outbox:
        assert {str(each.deployment_id) for each in outbox.all_deployments()} == {first, second}
    daemon.terminate()
    assert daemon.wait(120) == 0


def test_an_outbox_that_cannot_be_written_again_is_said_to_be_so_until_it_can(
    agent: Agent, daemon: Popen[str], jenkins: LocalJenkins, hivel: LocalHivel
) -> None:
    delivered = build(jenkins)
    wait_until(lambda: agent.json("status")["events"]["delivered"] == 1, "the event has arrived")
    monitoring = address(agent)
    moved, blocked = agent.folder / "moved", agent.folder / "outbox.db.rescuing"
    blocked.mkdir()
    agent.outbox.rename(moved)
    wait_until(lambda: "cannot be written to" in agent.log(), "it was noticed")
    answer = httpx.get(f"{monitoring}/readyz")
    assert (answer.status_code, "was deleted or replaced" in answer.text) == (503, True)
    assert not agent.outbox.exists()
    blocked.rmdir()
    wait_until(lambda: agent.log().count("event=started") == 2, "the daemon goes on")
    assert arrived(hivel) == {delivered}
    second = build(jenkins)
    wait_until(lambda: second in arrived(hivel), "the second event has arrived")
    assert daemon.poll() is None


def test_an_outbox_that_is_deleted_when_the_daemon_ends_is_written_again(
    agent: Agent, daemon: Popen[str], jenkins: LocalJenkins
) -> None:
    build(jenkins)
    wait_until(lambda: agent.json("status")["events"]["delivered"] == 1, "the event has arrived")
    agent.outbox.unlink()
    daemon.terminate()
    assert daemon.wait(120) == 0
    assert agent.json("status")["events"]["delivered"] == 1
