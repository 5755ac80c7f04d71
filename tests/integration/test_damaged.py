"""A damaged outbox from end to end: the agent goes on, says so loudly, and nothing is lost or doubled at Hivel."""

from __future__ import annotations

import random
import signal
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from agent.sandbox.hivel import Fault, LocalHivel
from agent.sandbox.jenkins import LocalJenkins
from tests.integration.support import REPO, Agent, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from subprocess import Popen

    from agent.sandbox.server import LocalServer

JOB = "deploy/shop"
PAGE = 4096
DELIVERED = 60
PENDING = 20
TABLES = (
    "projects", "facts", "facts_of_run", "deployments", "deployments_of_run", "deployments_by_state",
    "sqlite_autoindex_deployments_1", "attempts", "counts", "delivery", "controllers", "jobs", "open_builds",
    "forgotten", "reports", "deployments_by_place", "hours", "weeks",
)  # fmt: skip


@pytest.fixture
def jenkins() -> LocalJenkins:
    """With the time of today: what is read again are the builds of the last week."""
    return LocalJenkins()


@pytest.fixture
def hivel() -> Iterator[LocalHivel]:
    """It answers 409 to everything that it knows already."""
    hivel = LocalHivel(strict=True)
    yield hivel
    hivel.clear_faults()
    hivel.close()


@pytest.fixture
def used(agent: Agent, jenkins: LocalJenkins, hivel: LocalHivel, hivel_server: LocalServer) -> Agent:
    """An agent that delivered 60 events, has 20 pending, and was stopped. 5 builds ended since."""
    jenkins.add_builds(JOB, DELIVERED, repo=REPO)
    agent.run("once")
    hivel_server.stop()
    jenkins.add_builds(JOB, PENDING, repo=REPO)
    agent.run("once")
    hivel_server.start()
    assert len(hivel.deployments()) == DELIVERED
    jenkins.add_builds(JOB, 5, repo=REPO)
    return agent


def started(agent: Agent) -> Popen[str]:
    process = agent.start()
    wait_until(lambda: "event=started" in agent.log() or process.poll() is not None, "the daemon has started")
    assert process.poll() is None, agent.log()
    return process


def stopped(process: Popen[str]) -> None:
    process.terminate()
    assert process.wait(120) == 0


def moved_aside(agent: Agent) -> list[Path]:
    found = agent.folder.glob("outbox.db.damaged-*Z*")
    return sorted(path for path in found if not path.name.endswith(("-wal", "-shm")))


def junk(path: Path) -> None:
    path.write_bytes(b"this was an outbox once\n" * 5000)


def truncated(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2 // PAGE * PAGE + 1000)


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def broken_pages(path: Path) -> None:
    pages = range(1, path.stat().st_size // PAGE)
    for page in random.Random(4).sample(pages, len(pages) // 2):
        overwrite(path, page)


def overwrite(path: Path, page: int) -> None:
    with path.open("r+b") as file:
        file.seek(page * PAGE)
        file.write(b"\xa5" * PAGE)


def root_page(path: Path, name: str) -> int:
    with closing(sqlite3.connect(path)) as connection:
        number = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (name,)).fetchone()[0]
        return int(number) - 1


@pytest.mark.parametrize("damage", [junk, truncated, zeros, broken_pages], ids=lambda damage: damage.__name__)
def test_the_daemon_starts_on_a_damaged_file_and_loses_and_doubles_nothing(
    used: Agent, hivel: LocalHivel, damage: Callable[[Path], None]
) -> None:
    damage(used.outbox)
    content = used.outbox.read_bytes()
    since = time.monotonic()
    process = started(used)
    everything = DELIVERED + PENDING + 5
    wait_until(lambda: len(hivel.deployments()) == everything, "everything has arrived")
    recovered_s = time.monotonic() - since
    wait_until(lambda: used.json("status")["events"]["pending"] == 0, "everything is settled")
    stopped(process)
    [kept] = moved_aside(used)
    if damage is not broken_pages:  # those are met only when the agent has already written to others
        assert kept.read_bytes() == content
    assert used.log().count('event="outbox was damaged"') == 1
    assert f"moved_to={kept}" in used.log() and "read again" in used.log()
    repaired = used.json("status")["repaired"]
    assert repaired["moved_to"] == kept.name
    assert "the outbox was damaged" in used.run("status").stdout
    assert used.json("status")["events"]["failed"] == 0
    print(f"{damage.__name__}: {everything} builds, 0 lost, 0 doubled, {recovered_s:.1f} s")  # noqa: T201


@pytest.mark.parametrize(
    ("verb", "name"), [*(("once", name) for name in TABLES), ("run", "delivery"), ("run", "deployments_by_state")]
)
def test_whichever_table_is_broken_the_agent_goes_on(used: Agent, hivel: LocalHivel, verb: str, name: str) -> None:
    """Damage in the depth of the file does not show when it is opened, but when that table is first read."""
    overwrite(used.outbox, root_page(used.outbox, name))
    everything = DELIVERED + PENDING + 5
    if verb == "once":
        done = used.run("once")
        assert "Traceback" not in done.stderr
        assert done.returncode == 0, done.stderr
    else:
        process = started(used)
        wait_until(lambda: len(hivel.deployments()) == everything, "everything has arrived")
        stopped(process)
        assert "Traceback" not in used.log()
    assert len(hivel.deployments()) == everything
    if moved_aside(used):
        states = {state: n for state, n in used.json("status")["events"].items() if n}
        assert states == {"delivered": everything}


@pytest.mark.parametrize("first_page", [0, 1], ids=["the whole file", "all but the first page"])
def test_a_file_that_breaks_under_the_daemon_is_repaired_without_a_restart(
    agent: Agent, jenkins: LocalJenkins, hivel: LocalHivel, first_page: int
) -> None:
    jenkins.add_builds(JOB, DELIVERED, repo=REPO)
    process = started(agent)
    wait_until(lambda: len(hivel.deployments()) == DELIVERED, "everything has arrived")
    hivel.fault(Fault(kind="status", status=503))
    jenkins.add_builds(JOB, PENDING, repo=REPO)
    wait_until(lambda: agent.json("status")["events"]["pending"] == PENDING, "some events wait")
    with closing(sqlite3.connect(agent.outbox)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    for page in range(first_page, agent.outbox.stat().st_size // PAGE):
        overwrite(agent.outbox, page)
    since = time.monotonic()
    wait_until(lambda: 'event="outbox was damaged"' in agent.log(), "the damage is noticed")
    hivel.clear_faults()
    jenkins.add_builds(JOB, 5, repo=REPO)
    everything = DELIVERED + PENDING + 5
    wait_until(lambda: len(hivel.deployments()) == everything, "everything has arrived")
    recovered_s = time.monotonic() - since
    wait_until(lambda: agent.json("status")["events"]["delivered"] == everything, "everything is settled")
    assert process.poll() is None
    stopped(process)
    assert len(moved_aside(agent)) == 1 == agent.log().count('event="outbox was damaged"')
    assert "Traceback" not in agent.log()
    assert "the outbox was damaged" in agent.run("status").stdout
    print(f"broken while running: {everything} builds, 0 lost, 0 doubled, {recovered_s:.1f} s")  # noqa: T201


def test_a_stop_while_the_file_is_broken_is_still_a_stop(
    agent: Agent, jenkins: LocalJenkins, hivel: LocalHivel
) -> None:
    jenkins.add_builds(JOB, 5, repo=REPO)
    process = started(agent)
    wait_until(lambda: len(hivel.deployments()) == 5, "everything has arrived")
    with closing(sqlite3.connect(agent.outbox)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    for page in range(agent.outbox.stat().st_size // PAGE):
        overwrite(agent.outbox, page)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 0
    again = started(agent)
    jenkins.add_builds(JOB, 1, repo=REPO)
    wait_until(lambda: len(hivel.deployments()) == 6, "the agent goes on after its next start")
    stopped(again)


def test_verbs_that_only_look_say_what_a_damaged_file_is_and_leave_it_alone(used: Agent) -> None:
    junk(used.outbox)
    content = used.outbox.read_bytes()
    for verb in (["status"], ["queue", "list"], ["queue", "show", "1"], ["replay", "--failed", "--yes"]):
        done = used.run(*verb)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert "is damaged" in done.stderr and "recovers what can be read" in done.stderr
    checked = used.run("check")
    assert (checked.returncode, checked.stderr) == (0, "")  # the next start mends it
    assert "is damaged" in checked.stdout
    assert used.outbox.read_bytes() == content
    assert moved_aside(used) == []
