"""The command line: what it loads, how it finds verbs and configuration, how events are selected."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import agent.cli
from agent.cli.main import VERBS, load
from agent.cli.selection import Action, Wanted, choose, selection_options
from agent.deployments.derive import Rules
from agent.inspect.queue import Queue
from agent.model.times import Clock
from agent.outbox.sqlite.engine import SqliteOutbox
from tests.integration.filled import Filled, configured
from tests.integration.support import Agent, FakeClock

# Calls the command line with the arguments that follow, and tells what was loaded for it on standard error.
TELLING = """
import sys
sys.argv[0] = "hivel-agent"
from agent.main import main
try:
    main()
finally:
    print(*sys.modules, file=sys.stderr)
"""
LISTING = {"agent.main", "agent.cli", "agent.cli.main", "agent.cli.options", "agent.config", "agent.config.paths"}
LISTING |= {"agent.cli.streams", "agent.model", "agent.model.secrets", "agent.model.terminal"}
HEAVY = {"rich", "msgspec", "sqlite3", "httpx", "jenkins", "requests", "structlog", "starlette", "apscheduler"}


def loaded(*arguments: str, **environment: str) -> set[str]:
    """The modules that were loaded when the verb was done."""
    unmeasured = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    done = subprocess.run(
        [sys.executable, "-c", TELLING, *arguments],
        capture_output=True, text=True, timeout=240, env=unmeasured | environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return set(done.stderr.splitlines()[-1].split())


# ---- verbs


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("width", [30, 60, 1000])
def test_the_list_of_verbs_says_of_each_what_its_own_help_says(verb: str, width: int) -> None:
    listed, itself = click.Command(verb, help=VERBS[verb]), load(verb)
    assert (listed.name, listed.get_short_help_str(width)) == (itself.name, itself.get_short_help_str(width))


def test_every_module_with_a_command_is_a_verb() -> None:
    modules = {path.stem for folder in agent.cli.__path__ for path in Path(folder).glob("[a-z]*.py")}
    verbs = {name for name in modules if hasattr(import_module(f"agent.cli.{name}"), "command")}
    assert {name.replace("_", "-") for name in verbs} == set(VERBS)


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        (["--version"], {}),
        (["--help"], {}),
        ([], {"_HIVEL_AGENT_COMPLETE": "bash_complete", "COMP_WORDS": "hivel-agent s", "COMP_CWORD": "1"}),
    ],
)
def test_listing_verbs_loads_none_of_them(arguments: list[str], environment: dict[str, str]) -> None:
    modules = loaded(*arguments, **environment)
    assert {name for name in modules if name.partition(".")[0] == "agent"} <= {"agent"} | LISTING
    assert not modules & HEAVY


def test_a_verb_for_machines_loads_neither_the_daemon_nor_what_makes_colours(tmp_path: Path) -> None:
    looked_at = Agent.configured(tmp_path, jenkins="http://127.0.0.1:9", hivel="http://127.0.0.1:9")
    SqliteOutbox(looked_at.outbox, Clock()).close()
    modules = loaded("status", "--json", "--config", str(looked_at.config))
    assert "agent.cli.status" in modules
    assert not {name for name in modules if name.startswith(("agent.daemon", "agent.sources", "agent.sandbox"))}
    assert not modules & (HEAVY - {"msgspec", "sqlite3"})


def test_a_verb_that_is_mistyped_is_suggested(tmp_path: Path) -> None:
    done = Agent(tmp_path).run("statsu")
    assert done.returncode == 2
    assert "No such command 'statsu'. Did you mean 'status'?" in done.stderr


# ---- the configuration of emit


@pytest.mark.parametrize(
    ("before", "behind"),
    [
        ([], ["--config", "config.toml"]),
        (["--config", "config.toml"], []),
        (["--config=config.toml"], []),
        (["--config", "other.toml"], ["--config", "config.toml"]),
        (["--config=other.toml"], ["--config", "config.toml"]),
    ],
)
def test_emit_takes_the_configuration_on_either_side_and_the_one_behind_it_counts(
    tmp_path: Path, before: list[str], behind: list[str]
) -> None:
    (tmp_path / "config.toml").write_text('[outbox]\npath = "outbox.db"\n[hook]\nspool = "spool"\n')
    (tmp_path / "other.toml").write_text('[outbox]\npath = "outbox.db"\n[hook]\nspool = "other"\n')
    for folder in ("spool", "other"):
        (tmp_path / folder).mkdir()
    report = ["emit", "--strict", "--run", "nightly-7", "--environment", "staging", "--status", "success"]
    report += ["--repo-url", "https://git.example.test/acme/shop", "--branch", "main"]
    root = Path(agent.cli.__path__[0]).parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "agent", *before, *report, *behind], cwd=tmp_path, check=False, capture_output=True,
        text=True, timeout=240, env=Agent(tmp_path).environment() | {"PYTHONPATH": str(root)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "spool").iterdir())) == 1
    assert list((tmp_path / "other").iterdir()) == []


# ---- which events


@pytest.fixture
def failing(tmp_path: Path) -> Agent:
    """Two events that could not be derived: ``main:deploy/shop#1`` and ``#2``."""
    agent = configured(tmp_path)
    with SqliteOutbox(agent.outbox, Clock()) as outbox:
        for number in (1, 2):
            Filled(agent, outbox).built(number=number, checkout=False)
        assert outbox.counts().failed == 2
    return agent


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        ([], 2, "select the events to replay: IDs, --failed, or --all-delivered --since …"),
        (["--since", "1h"], 2, "select the events to replay: IDs, --failed, or --all-delivered --since …"),
        (["1", "--failed"], 2, "use either IDs or --failed / --all-delivered with filters, not both"),
        (["1", "--error", "branch"], 2, "use either IDs or --failed / --all-delivered with filters, not both"),
        (["1", "--job", "**"], 2, "use either IDs or --failed / --all-delivered with filters, not both"),
        (["--all-delivered"], 2, "--all-delivered requires --since, so that you do not send all events again"),
        (["--failed", "--since", "soon"], 2, "--since: 'soon'"),
        (["--failed", "--until", "soon"], 2, "--until: 'soon'"),
        (["--failed", "--job", "re:("], 2, "--job: "),
        (["--failed", "--since", "1h", "--until", "2h"], 2, "--since 1h ("),
        (["--failed", "--since", "2026-02-30"], 2, "--since: '2026-02-30' does not exist: day is out of range"),
        (["1", "--status", "failed"], 2, "use either IDs or --failed / --all-delivered with filters, not both"),
        (["1", "nonsense", "other"], 1, "there is no event 'nonsense', 'other'; nothing was replayed"),
        (["--failed"], 1, "2 event(s) would be sent again; to confirm, repeat the command with --yes"),
        (["--failed", "--error", "NO BRANCH"], 1, "2 event(s) would be sent again"),
    ],
)
def test_a_selection_that_cannot_be_done_like_this_changes_nothing(
    failing: Agent, arguments: list[str], code: int, complaint: str
) -> None:
    before = failing.json("queue", "list")
    done = subprocess.run(
        failing.command("replay", *arguments), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240,
        env=failing.environment(), check=False,
    )  # fmt: skip
    assert done.returncode == code
    assert f"Error: {complaint}" in done.stderr
    assert failing.json("queue", "list") == before


def test_filters_that_choose_nothing_ask_nothing(failing: Agent) -> None:
    for nothing in (["--error", "something else"], ["--since", "1h", "--until", "30m"], ["--environment", "moon"]):
        assert failing.json("replay", "--failed", *nothing) == []


@pytest.mark.parametrize(("answer", "code"), [("y", 1), ("n", 130)])
def test_on_a_terminal_a_selection_is_counted_and_done_after_a_yes(failing: Agent, answer: str, code: int) -> None:
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        failing.command("replay", "--failed"), stdin=follower, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env=failing.environment(),
    )  # fmt: skip
    os.close(follower)
    os.write(leader, answer.encode() + b"\n")
    shown, asked = process.communicate(timeout=240)
    os.close(leader)
    assert process.returncode == code
    assert asked.startswith("2 event(s) would be sent again. Continue? [y/N]: ")
    assert ("0 of 2 event(s) will be sent again" in shown) is (answer == "y")


def test_a_verb_that_leaves_delivered_events_alone_selects_by_the_same_options(tmp_path: Path) -> None:
    forget = Action("forget", done="forgotten", effect="forgotten")

    @click.command()
    @selection_options(forget)
    def command(*, wanted: Wanted) -> None:
        with SqliteOutbox(tmp_path / "outbox.db", FakeClock()) as outbox:
            queue = Queue(outbox, Rules(()), hold_for_ms=1)
            click.echo(f"chosen: {choose(outbox, queue, wanted, forget)}")

    def told(*arguments: str) -> str:
        return CliRunner().invoke(command, arguments).output.splitlines()[-1]

    assert told() == "Error: select the events to forget: IDs or --failed"
    assert told("--all-delivered", "--since", "1h").startswith("Error: No such option")
    assert told("7", "--failed") == "Error: use either IDs or --failed with filters, not both"
    assert told("7") == "Error: there is no event '7'; nothing was forgotten"
    assert told("--failed", "--job", "deploy/**") == "chosen: []"
