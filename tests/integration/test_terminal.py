"""Whatever a build, Jenkins or Hivel says: no verb lets it steer the terminal, and no locale ends a verb."""

from __future__ import annotations

import dataclasses
import enum
import io
import json
import pkgutil
import re
import subprocess
import sys
import typing
from importlib import import_module
from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings

from agent import cli
from agent.cli import audit, backfill, check, comparison, explain, once, output, preview, queue, replay, status
from agent.daemon.once import OnceReport
from agent.inspect.audit import Audit
from agent.inspect.compare import Comparison
from agent.inspect.explain import Explanation
from agent.inspect.findings import Finding
from agent.inspect.preview import Preview
from agent.inspect.queue import DetailView, EventView
from agent.inspect.status import DeliveryStatus, Status
from agent.model.build import Build
from agent.model.fact import Report
from agent.model.times import Clock
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.outbox.values import Counts
from agent.sources.jenkins.backfill import BackfillReport
from tests.integration.filled import NOBODY, RULES, Filled
from tests.integration.support import REPO, Agent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202edlrow\u2066\u2028x\r\x00\x7f[red]:bug:[/]\ud800\U000e0041ü…"
COLOURS = re.compile(r"\x1b\[[0-9;]*m")

hostile = st.text(st.sampled_from("ab[]/:\\\x00\x07\b\n\r\t\x1b\x7f\x85\x9b\u061c\u200f\u2028\u202e\u2066ü…\U000e0041"))


PLAIN = {int: st.just(12), float: st.just(1.5), bool: st.just(True), type(None): st.none()}


MOMENT = st.just("2026-11-23T12:00:00.000Z")  # by the agent's own hand
DEEPEST = 6  # builds are made of builds


def values(of: Any, depth: int = 0) -> st.SearchStrategy[Any]:
    """Values of a type of what verbs show, with hostile texts wherever there can be one."""
    if of in (str, Any, object):
        return hostile
    if (origin := typing.get_origin(of)) is not None:
        return values_of_generic(origin, typing.get_args(of), depth + 1)
    if issubclass(of, enum.Enum):
        return st.sampled_from(of)
    if issubclass(of, msgspec.Struct):
        fields = {each.name: values(each.type, depth + 1) for each in msgspec.structs.fields(of)}
        told = (name for name in fields if name == "since" or name.endswith(("_at", "_until")))
        moments = {} if of in (Build, Report) else dict.fromkeys(told, MOMENT)
        return st.builds(of, **(fields | moments))
    if dataclasses.is_dataclass(of):
        hints = typing.get_type_hints(of, include_extras=True)
        return st.builds(of, **{each.name: values(hints[each.name], depth + 1) for each in dataclasses.fields(of)})
    return PLAIN[of]


def values_of_generic(origin: Any, arguments: tuple[Any, ...], depth: int) -> st.SearchStrategy[Any]:
    if origin is typing.Literal:
        return st.sampled_from(arguments)
    if origin in (list, tuple):
        return st.just(origin()) if depth > DEEPEST else st.lists(values(arguments[0], depth), max_size=2).map(origin)
    if origin is dict and isinstance(arguments[0], enum.EnumType):  # which has all of them
        return st.fixed_dictionaries({key: values(arguments[1], depth) for key in arguments[0]})
    if origin is dict:
        return st.dictionaries(*(values(each, depth) for each in arguments), max_size=2)
    if origin is typing.Annotated or (depth > DEEPEST and type(None) in arguments):
        arguments = (arguments[0] if origin is typing.Annotated else type(None),)
    return st.one_of([values(each, depth) for each in arguments])


SHOWN: list[tuple[str, Callable[[Any], None], Any]] = [
    ("audit", audit.show, Audit),
    ("audit --csv", audit.write_csv, Audit),
    ("backfill", lambda value: backfill.show(value, dry_run=True), BackfillReport),
    ("check", check.show, list[Finding]),
    ("explain", explain.show, Explanation),
    ("preview", preview.show, Preview),
    ("preview --compare", comparison.show, Comparison),
    ("queue discard", queue.show_discarded, list[queue.DiscardView]),
    ("queue list", queue.show_events, list[EventView]),
    ("queue show", queue.show_detail, DetailView),
    ("replay", replay.show, list[replay.ReplayView]),
    ("status", status.show, Status),
]


class Terminal(io.StringIO):
    """Standard output that may be a terminal with colours."""

    def __init__(self, *, colours: bool) -> None:
        super().__init__()
        self._colours = colours

    def isatty(self) -> bool:
        return self._colours


def printed(show: Callable[[Any], None], value: Any, *, colours: bool) -> str:
    terminal = Terminal(colours=colours)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", terminal)
        patch.setenv("TERM", "xterm-256color")
        patch.setenv("COLUMNS", "120")
        show(value)
    return terminal.getvalue()


def is_harmless(text: str) -> bool:
    return text.replace("\n", "").isprintable()


@pytest.mark.parametrize(("show", "of"), [each[1:] for each in SHOWN], ids=[each[0] for each in SHOWN])
def test_no_verb_lets_what_others_said_steer_the_terminal(show: Callable[[Any], None], of: Any) -> None:
    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(value=values(of), colours=st.booleans())
    def play(value: Any, colours: bool) -> None:
        text = printed(show, value, colours=colours)
        assert is_harmless(COLOURS.sub("", text) if colours else text), text

    play()


@pytest.mark.parametrize("of", [each[2] for each in SHOWN], ids=[each[0] for each in SHOWN])
def test_json_is_harmless_and_says_the_same(of: Any) -> None:
    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(value=values(of))
    def play(value: Any) -> None:
        text = printed(output.write_json, value, colours=False)
        assert is_harmless(text), text
        assert json.loads(text) == json.loads(msgspec.json.encode(value))

    play()


def test_every_verb_that_shows_something_is_tried() -> None:
    """`once` is below; `init` shows what its user typed, `check` and `preview` show; `dora` has a test."""
    tried = {name.split()[0] for name, _, _ in SHOWN} | {"once", "init", "comparison", "dora"}
    names = (module.name for module in pkgutil.iter_modules(cli.__path__))
    showing = {name for name in names if hasattr(import_module(f"agent.cli.{name}"), "show")}
    assert showing <= tried


def test_a_state_that_nobody_knows_and_a_report_of_once_are_harmless() -> None:
    delivery = DeliveryStatus(HOSTILE, HOSTILE, HOSTILE, None)
    report = OnceReport([], delivery, Counts(0, 0, 0, 0), {HOSTILE: HOSTILE})
    text = printed(once.show, report, colours=False)
    assert is_harmless(text) and "\\u001b]0;owned" in text and "[red]:bug:[/]" in text


# ---- the verbs themselves


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    return Agent.configured(tmp_path, jenkins=NOBODY, hivel=NOBODY, extra=RULES)


@pytest.fixture
def outbox(agent: Agent) -> Iterator[SqliteOutbox]:
    said = HOSTILE.replace("\ud800", "")
    with SqliteOutbox(agent.outbox, Clock()) as outbox:
        filled = Filled(agent, outbox)
        filled.built(parameters={"ENVIRONMENT": said})
        filled.reported(number=2, environment=said, branch=said, repo_url=REPO, image=said)
        filled.settle(answer=said, reason=said)
        yield outbox


def run(agent: Agent, *arguments: str, encoding: str) -> subprocess.CompletedProcess[str]:
    environment = agent.environment() | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    return subprocess.run(
        agent.command(*arguments), capture_output=True, encoding=encoding, timeout=240, env=environment, check=False
    )


VERBS = [
    ["status"], ["queue", "list"], ["queue", "show", "1"], ["queue", "show", "nothing\x1b[2J\u202e"],
    ["audit"], ["audit", "--csv"], ["explain", f"{NOBODY}/job/deploy/job/shop/1/"], ["preview"], ["check"],
    ["replay", "1"], ["check", "--no\x1b[2J"],
]  # fmt: skip


@pytest.mark.usefixtures("outbox")
@pytest.mark.parametrize("encoding", ["utf-8", "iso-8859-1"])
@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0] if isinstance(verb, list) else str(verb))
def test_every_verb_ends_well_in_every_locale_and_its_output_is_harmless(
    agent: Agent, verb: list[str], encoding: str
) -> None:
    done = run(agent, *verb, encoding=encoding)
    assert "Traceback" not in done.stderr, done.stderr
    assert is_harmless(done.stdout + done.stderr), done.stdout + done.stderr


@pytest.mark.usefixtures("outbox")
@pytest.mark.parametrize("encoding", ["utf-8", "iso-8859-1"])
@pytest.mark.parametrize("verb", [["status"], ["queue", "list"], ["queue", "show", "1"]], ids=lambda verb: verb[-1])
def test_json_is_json_in_every_locale(agent: Agent, verb: list[str], encoding: str) -> None:
    done = run(agent, *verb, "--json", encoding=encoding)
    assert (done.returncode, done.stderr) == (0, "")
    text = done.stdout
    assert is_harmless(text) and (encoding == "utf-8" or text.isascii())
    assert json.loads(text) == agent.json(*verb) or verb == ["status"]


@pytest.mark.usefixtures("outbox")
def test_a_name_of_a_file_that_is_no_utf_8_ends_no_verb(agent: Agent) -> None:
    odd = agent.folder / "odd-\udcff.db"
    agent.outbox.rename(odd)
    link = agent.folder / "outbox.db"
    link.symlink_to(odd.name)
    for more in ([], ["--json"]):
        done = agent.run("status", *more)
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
