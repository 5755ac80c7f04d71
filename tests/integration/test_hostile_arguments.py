"""Whatever is typed, and whatever the files are: a verb ends with 0, 1 or 2 and words, never with a trace."""

from __future__ import annotations

import os
import sqlite3
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from agent.cli import streams
from agent.cli.main import main
from agent.model.times import Clock
from agent.outbox.sqlite.engine import SqliteOutbox
from tests.integration.support import Agent

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path

VALUES = [
    "", " ", "9999-12-31", "9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59-23:59", "0001-01-01",
    "0001-01-01T00:00:00+14:00", "2026-13-45", "99999999d", "0.0000001ms", "1e400", "-1", "0", "100000000000000000000",
    "9223372036854775807", "٣", "½", "NaN", "x" * 20_000, "9" * 5_000, "9" * 5_000 + "d", "now", "re:(", "re:(?P<a>",
    "re:" + "(" * 200, "**", "[", "\x1b[2J", "\udcff", "http://[", "http://[::1/job/a/1/",
    "main:a#99999999999999999999",
    "a#-1", "a#" + "9" * 5_000, "job/" * 500, "postgresql://me:[x]@db/outbox", "postgresql://me@127.0.0.1:1/a%zz",
]  # fmt: skip
PLACES = [
    ["preview", "--since"], ["preview", "--job"], ["preview", "--compare", "--since"],
    ["preview", "--compare", "--job"],
    ["backfill", "--since"], ["backfill", "--since", "2020-01-01", "--until"],
    ["backfill", "--since", "2020-01-01", "--job"], ["backfill", "--dry-run", "--since"],
    ["queue", "list", "--limit"], ["queue", "list", "--state"], ["queue", "show"], ["queue", "show", "--json"],
    ["queue", "discard"], ["queue", "discard", "1", "--reason"], ["queue", "discard", "--failed", "--yes", "--since"],
    ["queue", "discard", "--failed", "--yes", "--until"], ["queue", "discard", "--failed", "--yes", "--job"],
    ["queue", "discard", "--failed", "--yes", "--environment"], ["queue", "discard", "--failed", "--yes", "--error"],
    ["replay"], ["replay", "--failed", "--yes", "--since"], ["replay", "--failed", "--yes", "--until"],
    ["replay", "--all-delivered", "--yes", "--since"], ["replay", "--failed", "--yes", "--job"],
    ["explain"], ["explain", "--json"], ["audit", "--job"], ["audit", "--controller"], ["audit", "--since"], ["audit"],
    ["once", "--within"], ["once"], ["demo"], ["init"], ["run"], ["run", "--config"], ["backfill", "--controller"],
    *(["init", "--no-test", *option] for option in (["--folder"], ["--hivel-url"], ["--jenkins-url"], ["--since"],
                                                    ["--job"], ["--jenkins-name"], ["--hivel-token-file"])),
    ["sandbox", "hivel"], ["sandbox", "jenkins"], ["sandbox", "platform"],
    *(["sandbox", name, "--port", "0", option] for name in ("hivel", "jenkins") for option in ("--host", "--token")),
    *(["sandbox", name, "--port"] for name in ("hivel", "jenkins")),
    *(["sandbox", "platform", "github", "--port", "0", option] for option in ("--every", "--deployments", "--lose")),
    *(["sandbox", "hivel", "--port", "0", option] for option in ("--db", "--fault")),
    *(["sandbox", "jenkins", "--port", "0", *option] for option in (["--every"], ["--folder"], ["--replicas"],
      ["--replicas", "2", "--lag"], ["--replicas", "2", "--failover"])),
    *(["emit", "--run", "7", "--environment", "eu", "--repo-url", "https://git.test/a", "--branch", "main", option]
      for option in ("--run", "--status", "--start-time", "--pr-numbers", "--build-url", "--timeout", "--config")),
    ["emit"], ["emit", "--dry-run", "--strict", "--job"],
    ["outbox", "copy", "--to"], ["outbox", "copy", "--to", "postgresql://me@127.0.0.1:1/outbox", "--from"],
    ["outbox", "unmark", "--from"], ["outbox", "unmark", "--yes", "--from"], ["handover", "--agent"],
    ["status"], ["check", "--offline"], ["completion"], ["run", "--log-format", "xml"], ["sandbox"], [],
]  # fmt: skip


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    agent = Agent.configured(tmp_path, jenkins="http://127.0.0.1:1", hivel="http://127.0.0.1:1")
    SqliteOutbox(agent.outbox, Clock()).close()
    return agent


class Listening:
    """In place of a server: it ends at once."""

    @staticmethod
    def run(sockets: list[socket.socket]) -> None:
        for each in sockets:
            each.close()


def called(agent: Agent, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int | str | None:
    """The verb in this process; an exception that nobody expected is one here."""
    monkeypatch.setenv("HIVEL_AGENT_CONFIG", str(agent.config))
    monkeypatch.setattr(sys, "argv", ["hivel-agent", *arguments])
    monkeypatch.setattr(streams, "take", lambda: None)
    monkeypatch.setattr("agent.daemon.logs.configure", lambda **_: None)
    # A sandbox that could listen has shown that its arguments are fine.
    monkeypatch.setattr("agent.sandbox.server._uvicorn", lambda _: Listening())
    monkeypatch.chdir(agent.folder)
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code


@pytest.mark.parametrize("place", PLACES, ids=" ".join)
def test_no_argument_makes_a_trace(place: list[str], agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in VALUES:
        code = called(agent, [*place, value], monkeypatch)
        assert code in (0, 1, 2), (value[:80], code)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql://me:hunter22@db/outbox", "the URL must not contain a password"),
        ("postgresql://me@db/outbox?password=hunter22", "the URL must not contain a password"),
        ("postgresql://me:[hunter22]@db/outbox", "the URL is not like postgresql://USER@HOST:5432/DATABASE"),
        ("postgresql://me:hunter22/x@db/outbox", "the URL is not like postgresql://USER@HOST:5432/DATABASE"),
        ("postgresql:/me:hunter22@db/outbox", "the URL is not like postgresql://USER@HOST:5432/DATABASE"),
        ("mysql://me:hunter22@db/outbox", "the URL must not contain a password"),
    ],
)
def test_a_url_with_a_password_is_refused_and_not_shown(agent: Agent, url: str, words: str) -> None:
    for place in (["copy", "--to"], ["unmark", "--from"]):
        done = agent.run("outbox", *place, url)
        assert done.returncode == 2 and words in done.stderr
        assert "hunter22" not in done.stdout + done.stderr


# ---- files that are something else


def a_database_of_others(path: Path, version: int = 0) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE places (name TEXT)")
        connection.execute(f"PRAGMA user_version = {version}")
        connection.commit()


OTHERS: dict[str, Callable[[Path], object]] = {
    "a text": lambda path: path.write_text("my thesis, the only copy\n"),
    "octets": lambda path: path.write_bytes(bytes(range(256)) * 64),
    "a database of another program": a_database_of_others,
    "one with a version": lambda path: a_database_of_others(path, 6),
    "one with an older version": lambda path: a_database_of_others(path, 3),
    "a folder": lambda path: path.mkdir(),
    "a pipe": os.mkfifo,
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a device": lambda path: path.symlink_to("/dev/full"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_what_is_no_outbox_is_refused_and_left_as_it_is(what: str, tmp_path: Path) -> None:
    agent = Agent.configured(tmp_path, jenkins="http://127.0.0.1:1", hivel="http://127.0.0.1:1")
    OTHERS[what](agent.outbox)
    content = agent.outbox.read_bytes() if what.startswith(("a text", "octets", "one with", "a database")) else None
    for verb in ("once", "status", "run"):
        done = agent.run(verb)
        assert (done.returncode, "Traceback" in done.stdout + done.stderr) == (1, False), done.stderr
        assert str(agent.outbox) in done.stderr or str(agent.outbox.resolve()) in done.stderr
    assert not list(tmp_path.glob("outbox.db.damaged*")), "it was taken for a damaged outbox"
    assert content is None or agent.outbox.read_bytes() == content


@pytest.mark.parametrize("what", ["octets", "a folder", "a link to itself"])
def test_what_is_no_configuration_is_told_by_its_name(what: str, tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    OTHERS[what](agent.config)
    for verb in ("status", "run", "check", "once"):
        done = agent.run(verb)
        assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
        assert str(agent.config) in done.stderr
