"""Many processes on one outbox: nobody waits for long, nobody meets a lock, and a file is made once."""

from __future__ import annotations

import gzip
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agent.model.times import Clock
from agent.outbox.sqlite import migrations
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.outbox.values import OutboxError
from tests.integration.support import REPO, Agent, wait_until

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

    from agent.sandbox.hivel import LocalHivel
    from agent.sandbox.jenkins import LocalJenkins
    from agent.sandbox.server import LocalServer

V1 = Path(__file__).parents[1] / "data" / "outboxes" / "v1.db.gz"  # made by the agent whose schema had version 1
REPORTERS, WAVES = 10, 40
ROUNDS = 12


class User:
    """A process with an outbox of its own to open or to fill; see ``outbox_user``."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.outbox_user"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def close(self) -> None:
        self._process.communicate(timeout=240)


@contextmanager
def users(count: int) -> Iterator[list[User]]:
    """So many processes, all of which are ready."""
    with ExitStack() as stack:
        found = [User() for _ in range(count)]
        for user in found:
            stack.callback(user.close)
        assert {user.answer() for user in found} == {"here"}
        yield found


def all_at_once(processes: list[User], *lines: str) -> list[str]:
    """Tell each of them its line, or all of them the same one; returns their answers."""
    for process, line in zip(processes, lines if len(lines) > 1 else lines * len(processes), strict=True):
        process.tell(line)
    return [process.answer() for process in processes]


def test_the_daemon_ten_reporters_lists_and_replays_share_one_outbox(
    jenkins: LocalJenkins, hivel: LocalHivel, jenkins_server: LocalServer, hivel_server: LocalServer, tmp_path: Path
) -> None:
    jenkins.add_job("deploy/shop")
    agent = Agent.configured(tmp_path, jenkins=jenkins_server, hivel=hivel_server)
    daemon = agent.start()
    wait_until(lambda: "event=started" in agent.log(), "the daemon has started")
    over = threading.Event()
    looks: list[subprocess.CompletedProcess[str]] = []
    log_sizes: list[int] = []

    def look() -> None:
        while not over.is_set():
            looks.append(agent.run("queue", "list"))
            looks.append(agent.run("replay", "--all-delivered", "--since", "1h", "--yes"))

    def measure() -> None:
        log = agent.outbox.with_name("outbox.db-wal")
        while not over.wait(0.02):
            with suppress(FileNotFoundError):  # nothing was written yet
                log_sizes.append(log.stat().st_size)

    others = [threading.Thread(target=work) for work in (look, look, measure)]
    with users(REPORTERS) as reporters:
        for other in others:
            other.start()
        waits_ms: list[int] = []
        for wave in range(1, WAVES + 1):
            lines = [f"report {agent.outbox} reported/job-{index} {wave}" for index in range(REPORTERS)]
            waits_ms += map(int, all_at_once(reporters, *lines))
        jenkins.add_builds("deploy/shop", 20, repo=REPO)
    wait_until(lambda: len(looks) >= 4, "others have looked meanwhile")
    over.set()
    for other in others:
        other.join()
    expected = {f"main:reported/job-{index}#{n}" for index in range(REPORTERS) for n in range(1, WAVES + 1)}
    expected |= {f"main:deploy/shop#{n}" for n in range(1, 21)}
    wait_until(lambda: {d.event.deployment_id for d in hivel.deployments()} == expected, "all events have arrived")
    daemon.terminate()
    assert daemon.wait(120) == 0
    said = agent.log() + "".join(look.stderr for look in looks)
    wrong = [line for line in said.splitlines() if "locked" in line or "Traceback" in line]
    assert not wrong
    assert {look.returncode for look in looks} <= {0, 1}
    # Nobody is starved. How long they wait is printed: on a machine that is busy with other things it says little.
    assert max(waits_ms) < 5_000
    assert max(log_sizes) < 16 * 1024 * 1024
    print(f"{WAVES} times {REPORTERS} reports at once, beside the daemon and {len(looks)} lists and replays: the "  # noqa: T201
          f"longest took {max(waits_ms)} ms, the log had at most {max(log_sizes) // 1024} KiB")  # fmt: skip


def test_a_file_that_is_not_there_yet_is_made_by_several_processes_at_once(tmp_path: Path) -> None:
    with users(8) as openers:
        for index in range(ROUNDS):
            path = tmp_path / f"new-{index}.db"
            assert all(answer.isdigit() for answer in all_at_once(openers, f"open {path}"))
            check_migrations(path)


def test_an_older_file_is_left_as_it_is_by_all_but_the_agent(tmp_path: Path) -> None:
    path = tmp_path / "v1.db"
    path.write_bytes(gzip.decompress(V1.read_bytes()))
    before = path.read_bytes()
    with users(8) as openers:
        [answer] = set(all_at_once(openers, f"open {path}"))
    assert answer == (
        f"OlderOutboxError: the outbox {path} was written by an older version; "
        "it is upgraded when hivel-agent run or once starts"
    )
    assert path.read_bytes() == before


def check_migrations(path: Path) -> None:
    """Each was applied, and once."""
    with SqliteOutbox(path, Clock()) as outbox:
        ask = outbox._connection.execute
        names = [name for (name,) in ask("SELECT name FROM _sqlite_migrations").fetchall()]
        assert len(names) == len(set(names)) == migrations.VERSION - migrations.FIRST + 1
        settings = [ask(f"PRAGMA {name}").fetchone()[0] for name in ("user_version", "auto_vacuum", "journal_mode")]
        assert settings == [migrations.VERSION, 2, "wal"]
        assert outbox.find_damage() is None


def test_a_file_of_a_newer_agent_is_refused_by_all_and_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "newer.db"
    with SqliteOutbox(path, Clock()) as outbox:
        outbox._connection.execute(f"PRAGMA user_version = {migrations.VERSION + 1}")
    before = path.read_bytes()
    with users(8) as openers:
        answers = all_at_once(openers, f"open {path}")
    [answer] = set(answers)
    assert answer == (
        f"OutboxError: the outbox {path} was written by a newer hivel-agent (format version {migrations.VERSION + 1}; "
        f"this version reads up to {migrations.VERSION}); install the newer hivel-agent again"
    )
    assert path.read_bytes() == before


def test_a_newer_agent_that_was_faster_is_noticed_although_the_file_was_new_a_moment_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "outbox.db"
    prepare = migrations.prepare_new_file

    def let_the_newer_one_in(connection: sqlite3.Connection) -> None:
        monkeypatch.undo()
        with SqliteOutbox(path, Clock()) as newer:
            newer._connection.execute(f"PRAGMA user_version = {migrations.VERSION + 1}")
        prepare(connection)

    monkeypatch.setattr(migrations, "prepare_new_file", let_the_newer_one_in)
    with pytest.raises(OutboxError, match="newer hivel-agent"):
        SqliteOutbox(path, Clock())
