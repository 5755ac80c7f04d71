"""``queue``, ``replay`` and ``status`` on an outbox that a test filled: no daemon, no Jenkins, no Hivel."""

from __future__ import annotations

import csv
import getpass
import io
import os
import pty
import sqlite3
import subprocess
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from agent.model import fact as facts
from agent.model.deployment import State
from agent.model.fact import Report
from agent.model.keys import Project, Run
from agent.model.times import Clock, parse_moment, rfc3339
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.outbox.values import JobError, Progress, SetAside
from tests.integration.filled import HOUR, MINUTE, NOW, Filled, configured
from tests.integration.support import REPO, Agent

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[Filled]:
    agent = configured(tmp_path)
    with SqliteOutbox(agent.outbox, Clock()) as outbox:
        yield Filled(agent, outbox)


def on_a_terminal(agent: Agent, answer: str, *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a verb that is answered."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        agent.command(*arguments), stdin=follower, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=agent.environment(),
    )  # fmt: skip
    os.close(follower)
    os.write(leader, answer.encode() + b"\n")
    shown, asked = process.communicate(timeout=240)
    os.close(leader)
    return process.returncode, shown, asked


# ---- list


def test_a_list_for_machines_tells_key_revision_and_what_is_sent(filled: Filled) -> None:
    filled.built(number=7)
    [event] = filled.agent.json("queue", "list")
    assert event["deployment_id"] == "main:deploy/shop#7" == event["event"]["deployment_id"]
    assert event["run"] == {
        "provider": "jenkins", "scope": "main", "project": "deploy/shop", "number": "7", "attempt": 1,
    }  # fmt: skip
    assert event["build_started_at"] == rfc3339(NOW - HOUR) == event["event"]["start_time"]
    assert (event["state"], event["revision"], event["sent_revision"]) == ("pending", 1, None)
    assert (event["attempts"], event["reason"], event["held_until"]) == (0, None, None)
    assert event["next_attempt_at"] and event["created_at"] and event["settled_at"] is None
    filled.settle()
    [delivered] = filled.agent.json("queue", "list")
    assert (delivered["state"], delivered["sent_revision"], delivered["attempts"]) == ("delivered", 1, 1)
    assert delivered["next_attempt_at"] is None and delivered["settled_at"] == rfc3339(NOW)


def test_a_held_event_is_shown_under_the_id_that_it_would_get_now(filled: Filled) -> None:
    filled.reported(environment="staging")
    [held] = filled.agent.json("queue", "list", "--state", "held")
    assert (held["deployment_id"], held["state"]) == ("main:deploy/shop#1", "held")
    assert held["event"]["deployment_id"] == "main:deploy/shop#1"
    assert parse_moment(held["held_until"]) - parse_moment(held["created_at"]) == HOUR
    filled.reported(environment="production")
    assert filled.states() == {"main:deploy/shop#1:staging": "held", "main:deploy/shop#1:production": "held"}
    for name in ("main:deploy/shop#1:staging", "1"):
        shown = filled.agent.json("queue", "show", name)
        assert shown["event"]["event"]["environment"] == "staging"
    assert "held; sent without confirmation at" in filled.agent.run("queue", "show", "1").stdout


def test_a_run_of_another_system_is_told_by_its_own_name(filled: Filled) -> None:
    run = Run(Project("github_actions", "acme", "acme/shop"), "acme/shop/77/deploy")
    said = Report(provider="github_actions", status="failure", repo_url=REPO, branch="main", environment="qa")
    filled.accept(facts.report(run, said, source="intake", at=NOW))
    [event] = filled.agent.json("queue", "list")
    assert event["deployment_id"] == "acme/shop/77/deploy:qa"
    assert (event["run"]["provider"], event["run"]["scope"]) == ("github_actions", "acme")


def listed(agent: Agent, *arguments: str) -> list[int]:
    return [each["id"] for each in agent.json("queue", "list", *arguments)]


@pytest.fixture
def several(filled: Filled) -> Filled:
    """1 production, ended 3 days ago; 2 staging, failed build, 2 days ago; 3 of another job, no event; 4 now."""
    days = 24 * HOUR
    filled.built(number=1, started_at=NOW - 3 * days - HOUR, ended_at=NOW - 3 * days)
    filled.reported(number=2, environment="staging", status="FAILURE", at=NOW - 2 * days - MINUTE)
    filled.built(number=2, result="FAILURE", started_at=NOW - 2 * days - HOUR, ended_at=NOW - 2 * days)
    filled.built("lab/try", number=3, checkout=False)
    filled.built(number=4)
    return filled


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ([], [4, 3, 2, 1]),
        (["--since", "60h"], [4, 3, 2]),
        (["--until", "12h"], [2, 1]),
        (["--since", "4d", "--until", "60h"], [1]),
        (["--environment", "staging"], [2]),
        (["--status", "failed"], [2]),
        (["--job", "deploy/**"], [4, 2, 1]),
        (["--job", "deploy/**", "--limit", "2"], [4, 2]),
        (["--job", "re:^lab"], [3]),
        (["--reason", "NO REPO"], [3]),
        (["--state", "failed", "--job", "deploy/**"], []),
        (["--state", "pending", "--since", "60h", "--status", "success", "--environment", "production"], [4]),
    ],
    ids=str,
)
def test_a_list_has_the_events_that_meet_all_filters(several: Filled, filters: list[str], expected: list[int]) -> None:
    assert listed(several.agent, *filters) == expected


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--since", "1h", "--until", "2h"], "must be before --until 2h"),
        (["--since", "2026-01-31", "--until", "2026-01-31"], "must be before --until 2026-01-31"),
        (["--since", "2090-01-01"], "--since: 2090-01-01 is in the future"),
        (["--until", "2026-02-30"], "--until: '2026-02-30' does not exist: day is out of range for month"),
        (["--until", "7 days"], "write 7d"),
        (["--job", "re:("], "--job: "),
        (["--csv", "--json"], "--csv and --json: choose one"),
    ],
)
def test_filters_that_make_no_sense_are_refused(filled: Filled, arguments: list[str], complaint: str) -> None:
    done = filled.agent.run("queue", "list", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert complaint in done.stderr


def test_csv_has_every_event_on_a_line_and_no_cell_is_a_formula(filled: Filled) -> None:
    filled.built(number=7)
    filled.reported("deploy/shop", 8, environment='=HYPERLINK("http://x.test";"a,b")', branch="@SUM(1)")
    filled.built("deploy/shop", 8)
    newest, first = csv.DictReader(io.StringIO(filled.agent.run("queue", "list", "--csv").stdout))
    assert (first["id"], first["deployment_id"], first["status"]) == ("1", "main:deploy/shop#7", "success")
    assert (first["controller"], first["job"], first["build"]) == ("main", "deploy/shop", "7")
    assert (first["ended_at"], first["settled_at"], first["reason"]) == (rfc3339(NOW - MINUTE), "", "")
    assert newest["environment"] == """'=HYPERLINK("http://x.test";"a,b")"""
    assert not [cell for cell in newest.values() if cell.startswith(("=", "+", "-", "@", "\t"))]


def test_replay_and_discard_select_by_the_filters_of_the_list(several: Filled) -> None:
    discard = ["queue", "discard", "--failed", "--yes"]
    several.settle()
    assert several.agent.json(*discard, "--status", "failed") == []
    assert several.agent.json(*discard, "--until", "12h") == []
    replay = ["replay", "--all-delivered", "--since", "4d", "--yes"]
    assert [each["id"] for each in several.agent.json(*replay, "--until", "60h")] == [1]
    assert [each["id"] for each in several.agent.json(*replay, "--status", "failed")] == [2]
    assert several.agent.json(*replay, "--reason", "nothing like this") == []
    assert [each["id"] for each in several.agent.json(*discard, "--job", "lab/**", "--error", "no repo")] == [3]


# ---- show


def test_what_was_said_about_a_build_is_shown_with_who_and_when(filled: Filled) -> None:
    filled.reported(environment="staging", image="acme/shop:1", at=NOW - HOUR + 30_000)
    filled.built()
    shown = filled.agent.json("queue", "show", "main:deploy/shop#1")
    assert [(each["source"], each["kind"], each["team"]) for each in shown["facts"]] == [
        ("emit", "report", "shop"), ("poller", "final", None),
    ]  # fmt: skip
    assert [each["received_at"] for each in shown["facts"]] == [
        rfc3339(NOW - HOUR + 30_000), rfc3339(NOW - MINUTE),
    ]  # fmt: skip
    assert shown["facts"][0]["body"]["image"] == "acme/shop:1"
    assert (shown["source"]["job"], shown["source"]["number"], shown["source"]["result"]) == (
        "deploy/shop",
        1,
        "SUCCESS",
    )
    text = filled.agent.run("queue", "show", "1").stdout
    assert "emit: report provider jenkins, status SUCCESS, environment staging" in text and "(team shop)" in text
    assert "poller: final SUCCESS" in text and '"job": "deploy/shop"' in text


def test_what_another_build_of_the_number_said_is_not_shown(filled: Filled) -> None:
    filled.built(started_at=NOW - 100 * HOUR, ended_at=NOW - 99 * HOUR, result="FAILURE")
    filled.built()
    assert filled.states().keys() == {"main:deploy/shop#1", f"main:deploy/shop#1@{NOW - HOUR}"}
    [said] = filled.agent.json("queue", "show", f"main:deploy/shop#1@{NOW - HOUR}")["facts"]
    assert said["body"]["result"] == "SUCCESS"


def test_what_is_known_since_is_shown_beside_what_hivel_has(filled: Filled) -> None:
    filled.built()
    filled.settle()
    assert filled.agent.json("queue", "show", "1")["known"] == {
        "event": filled.agent.json("queue", "list")[0]["event"], "reason": None, "differences": [],
    }  # fmt: skip
    filled.reported(environment="staging", image="acme/shop:2")
    shown = filled.agent.json("queue", "show", "1")
    assert shown["event"]["event"]["environment"] == "production"
    assert shown["known"]["event"]["environment"] == "staging"
    assert shown["known"]["differences"] == [
        {"field": "environment", "sent": "production", "known": "staging"},
        {"field": "image", "sent": None, "known": "acme/shop:2"},
    ]
    text = filled.agent.run("queue", "show", "1").stdout
    assert "Hivel has -> known now:\n    environment    production -> staging\n" in text
    assert "image          - -> acme/shop:2" in text


def test_what_hivel_has_and_the_rules_no_longer_make_is_said(filled: Filled) -> None:
    filled.built("lab/try")
    filled.settle()
    filled.agent.config.write_text(filled.agent.config.read_text().replace('job = "lab/**"', 'job = "labs/**"'))
    assert filled.agent.json("queue", "show", "1")["known"] == {"event": None, "reason": None, "differences": []}
    text = filled.agent.run("queue", "show", "1").stdout
    assert "with the facts known now, there would be no such deployment" in text


def test_an_event_whose_facts_are_gone_is_shown_without_them(filled: Filled) -> None:
    filled.built()
    filled.settle()
    filled.outbox._connection.execute("DELETE FROM facts")
    shown = filled.agent.json("queue", "show", "1")
    assert (shown["facts"], shown["source"], shown["known"]) == ([], None, None)
    assert shown["event"]["event"]["environment"] == "production"


def test_attempts_are_numbered_and_a_revision_that_hivel_has_is_told(filled: Filled) -> None:
    filled.built()
    for _ in range(2):
        filled.settle(State.PENDING, http_status=503, verdict="retry", answer="HTTP 503", next_attempt_at=NOW)
    shown = filled.agent.json("queue", "show", "1")
    assert [(each["n"], each["http_status"], each["verdict"]) for each in shown["attempts"]] == [
        (1, 503, "retry"), (2, 503, "retry"),
    ]  # fmt: skip
    filled.settle(State.PENDING, counts_as_attempt=False, http_status=None, verdict="paused", answer="")
    filled.reported(environment="staging")
    filled.settle(already_there=True)
    text = filled.agent.run("queue", "show", "1").stdout
    assert "revision 2; Hivel has an unknown revision" in text
    assert "attempts: 3\n" in text and "12 ms  503  retry" in text and "delivered\n" in text


# ---- replay


@pytest.mark.parametrize("name", [None, "main"], ids=["named by host and port", "named"])
def test_jobs_are_chosen_by_their_names_whatever_the_controller_is_called(tmp_path: Path, name: str | None) -> None:
    agent = configured(tmp_path, name=name)
    with SqliteOutbox(agent.outbox, Clock()) as outbox:
        filled = Filled(agent, outbox)
        assert filled.controller == (name or "127.0.0.1:9")
        for job in ("deploy/C#-api", "deploy/shop", "lab/deploy/shop"):
            filled.built(job, checkout=False)
    for pattern, chosen in (
        ("deploy/C#-api", ["deploy/C#-api"]),
        ("deploy/*", ["deploy/C#-api", "deploy/shop"]),
        ("re:shop$", ["deploy/shop", "lab/deploy/shop"]),
        ("*/C#*", ["deploy/C#-api"]),
        ("C", []),
        ("127.0.0.1**", []),
    ):
        found = agent.json("replay", "--failed", "--yes", "--job", pattern)
        assert [each["deployment_id"] for each in found] == [f"{filled.controller}:{job}#1" for job in chosen], pattern


def test_a_held_event_is_not_replayed_and_it_is_said_why(filled: Filled) -> None:
    filled.reported(environment="staging")
    done = filled.agent.run("replay", "1")
    assert done.returncode == 1
    assert "main:deploy/shop#1  not replayed: it is held until its build is final and is then sent automatically" in (
        done.stdout
    )
    [outcome] = filled.agent.json("replay", "main:deploy/shop#1")
    assert (outcome["deployment_id"], outcome["replayed"]) == ("main:deploy/shop#1", False)
    assert filled.states() == {"main:deploy/shop#1": "held"}


def test_a_replay_hides_nothing_of_what_hivel_has(filled: Filled) -> None:
    """It was sent while a report came in: Hivel has revision 1, and something else is known."""
    filled.built()
    [claimed] = filled.outbox.claim(9)
    filled.reported(environment="staging")
    filled.settle_as_claimed(claimed)
    before = filled.agent.json("queue", "show", "1")
    assert (before["event"]["revision"], before["event"]["sent_revision"]) == (2, 1)
    known = [{"field": "environment", "sent": "production", "known": "staging"}]
    assert before["known"]["differences"] == known
    assert "differs   Hivel has an older revision of 1 event(s)" in filled.agent.run("status").stdout

    [replayed] = filled.agent.json("replay", "1")
    assert replayed["replayed"] is True
    assert replayed["note"] == "sent unchanged, but other values are known now; see: hivel-agent queue show 1"
    pending = filled.agent.json("queue", "show", "1")
    assert (pending["event"]["state"], pending["event"]["sent_revision"]) == ("pending", 1)
    assert pending["known"]["differences"] == known
    filled.reported(
        environment="staging", image="shop:2", at=NOW + 1
    )  # and what comes meanwhile does not change what is sent
    assert filled.agent.json("queue", "show", "1")["event"]["event"]["environment"] == "production"
    for already_there in (True, False):
        filled.settle(already_there=already_there)
        after = filled.agent.json("queue", "show", "1")
        assert (after["event"]["state"], after["event"]["sent_revision"]) == ("delivered", 1)
        assert after["event"]["event"]["environment"] == "production"
        assert after["known"]["differences"] == [*known, {"field": "image", "sent": None, "known": "shop:2"}]
        assert "revision 2; Hivel has revision 1" in filled.agent.run("queue", "show", "1").stdout
        filled.agent.json("replay", "1")


def test_a_failed_event_of_a_build_whose_stages_nobody_asked_for_is_told_to_be_one_of_the_whole_build(
    filled: Filled,
) -> None:
    filled.built(checkout=False)
    by_stages = 'stage = "re:^Deploy (?P<environment>.+)$"\nrepo_url = "https://git.test/shop"\nbranch = "main"\n'
    config = filled.agent.config
    config.write_text(config.read_text().replace('job = "deploy/**"\n', f'job = "deploy/**"\n{by_stages}'))
    [replayed] = filled.agent.json("replay", "1")
    told = "one event for the whole build: the stages of the build were not read from Jenkins"
    assert (replayed["replayed"], replayed["note"]) == (True, told)


def test_a_failed_event_is_derived_again_by_the_rules_of_now(filled: Filled) -> None:
    filled.built("lab/try", checkout=False)
    [still] = filled.agent.json("replay", "--failed", "--yes")
    assert (still["replayed"], still["reason"]) == (
        False,
        'no repo_url, no branch in the build; set repo_url and branch in the rule for job = "lab/**", then replay',
    )
    filled.agent.config.write_text(filled.agent.config.read_text() + f'repo_url = "{REPO}"\nbranch = "main"\n')
    assert filled.agent.json("replay", "--failed", "--yes") == [
        {"id": 1, "deployment_id": "main:lab/try#1", "replayed": True, "reason": None, "note": None}
    ]
    [event] = filled.agent.json("queue", "list")
    assert (event["state"], event["event"]["repo_url"], event["revision"]) == ("pending", REPO, 2)


# ---- discard


def test_failed_and_pending_events_are_discarded_with_who_and_why(filled: Filled) -> None:
    filled.built("lab/try", checkout=False)
    filled.built("deploy/shop")
    outcomes = filled.agent.json("queue", "discard", "1", "main:deploy/shop#1", "--reason", "no deployment")
    assert outcomes == [
        {"id": 1, "deployment_id": "main:lab/try#1", "discarded": True, "reason": None},
        {"id": 2, "deployment_id": "main:deploy/shop#1", "discarded": True, "reason": None},
    ]
    for event in filled.agent.json("queue", "list", "--state", "discarded"):
        who, _, why = event["reason"].removeprefix("by ").partition(": ")
        assert who in (getpass.getuser(), os.environ.get("SUDO_USER"), _logged_in())
        assert why == "no deployment"
        assert event["settled_at"] is not None
    assert filled.agent.json("status")["events"] == {
        "pending": 0, "held": 0, "delivered": 0, "failed": 0, "discarded": 2,
    }  # fmt: skip
    assert "0 failed, 2 discarded" in filled.agent.run("status").stdout
    assert filled.outbox.claim(10) == []


def _logged_in() -> str | None:
    try:
        return os.getlogin()
    except OSError:
        return None


def test_without_a_reason_who_did_it_is_kept(filled: Filled) -> None:
    filled.built(checkout=False)
    assert filled.agent.run("queue", "discard", "1").returncode == 0
    [event] = filled.agent.json("queue", "list")
    assert event["reason"].startswith("by ") and not event["reason"].endswith(":")


def test_delivered_held_and_discarded_events_are_not_discarded(filled: Filled) -> None:
    filled.built()
    filled.settle()
    filled.reported(number=2)
    filled.built(number=3, checkout=False)
    filled.agent.run("queue", "discard", "3")
    before = filled.agent.json("queue", "list")
    done = filled.agent.run("queue", "discard", "1", "2", "3")
    assert done.returncode == 1
    for words in (
        "main:deploy/shop#1  not discarded: it is delivered; only failed and pending ones can be discarded",
        "main:deploy/shop#2  not discarded: it is held;",
        "main:deploy/shop#3  not discarded: it is discarded;",
        "0 of 3 event(s) were discarded",
    ):
        assert words in done.stdout
    assert filled.agent.json("queue", "list") == before


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 130)])
def test_what_filters_choose_is_counted_and_discarded_after_a_yes(filled: Filled, answer: str, code: int) -> None:
    for job in ("lab/try", "lab/other", "deploy/shop"):
        filled.built(job, checkout=False)
    done, shown, asked = on_a_terminal(filled.agent, answer, "queue", "discard", "--failed", "--job", "lab/**")
    assert asked.startswith("2 event(s) would be discarded and never sent. Continue? [y/N]: ")
    assert done == code
    assert ("2 of 2 event(s) were discarded" in shown) is (answer == "y")
    failed = {"main:lab/try#1", "main:lab/other#1", "main:deploy/shop#1"} if answer == "n" else {"main:deploy/shop#1"}
    assert {name for name, state in filled.states().items() if state == "failed"} == failed


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        ([], 2, "select the events to discard: IDs or --failed"),
        (["--error", "branch"], 2, "select the events to discard: IDs or --failed"),
        (["1", "--failed"], 2, "use either IDs or --failed with filters, not both"),
        (["--all-delivered"], 2, "No such option '--all-delivered'"),
        (["nonsense"], 1, "there is no event 'nonsense'; nothing was discarded"),
        (["--failed"], 1, "1 event(s) would be discarded and never sent; to confirm, repeat the command with --yes"),
    ],
)
def test_a_discard_that_cannot_be_done_like_this_changes_nothing(
    filled: Filled, arguments: list[str], code: int, complaint: str
) -> None:
    filled.built(checkout=False)
    done = subprocess.run(
        filled.agent.command("queue", "discard", *arguments), stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=240, env=filled.agent.environment(), check=False,
    )  # fmt: skip
    assert (done.returncode, complaint in done.stderr) == (code, True), done.stderr
    assert filled.states() == {"main:deploy/shop#1": "failed"}


def test_nothing_brings_a_discarded_event_back_but_a_replay_by_name(filled: Filled) -> None:
    filled.built()
    assert filled.agent.run("queue", "discard", "1", "--reason", "a test").returncode == 0
    filled.built(result="FAILURE")
    filled.reported(environment="production", image="acme/shop:9")
    assert filled.agent.json("replay", "--failed", "--yes") == []
    assert filled.agent.json("replay", "--all-delivered", "--since", "1d", "--yes") == []
    assert filled.states() == {"main:deploy/shop#1": "discarded"}
    assert filled.agent.json("replay", "main:deploy/shop#1")[0]["replayed"]
    [event] = filled.agent.json("queue", "list")
    assert (event["state"], event["reason"], event["attempts"]) == ("pending", None, 0)


# ---- status


def test_status_names_jobs_that_cannot_be_read_and_what_was_set_aside(filled: Filled) -> None:
    error = JobError("deploy/broken", "http://ci/job/deploy/job/broken: HTTP 504", NOW - HOUR, NOW + HOUR)
    filled.outbox.save_progress(Progress("main", errors={"deploy/broken": error}))
    trace = "Traceback (most recent call last):\n  …\nValueError: 'x' does not appear to be an IPv6 address"
    filled.outbox.set_aside(SetAside(NOW, "report", "report 7", trace, "{}"))
    status = filled.agent.json("status")
    assert status["job_errors"] == [
        {
            "controller": "main", "job": "deploy/broken", "error": "http://ci/job/deploy/job/broken: HTTP 504",
            "since": rfc3339(NOW - HOUR), "next_try_at": rfc3339(NOW + HOUR),
        }
    ]  # fmt: skip
    [aside] = status["set_aside"]
    assert (aside["kind"], aside["subject"], aside["trace"]) == ("report", "report 7", trace)
    assert aside["error"] == "ValueError: 'x' does not appear to be an IPv6 address"
    text = filled.agent.run("status").stdout
    assert f"job       deploy/broken on main cannot be read since {rfc3339(NOW - HOUR)}, next attempt" in text
    assert "set aside report report 7" in text and "does not appear to be an IPv6 address" in text
    assert "Traceback" not in text


def test_status_says_that_an_outbox_is_full(tmp_path: Path) -> None:
    agent = configured(tmp_path)
    with SqliteOutbox(agent.outbox, Clock()) as outbox:
        outbox.set_aside(SetAside(NOW, "report", "large", "x" * 12_000_000))
    free = agent.json("status")
    assert (free["size_bytes"] > 12_000_000, free["max_size_bytes"]) == (True, 0)
    assert "full" not in agent.run("status").stdout
    agent.config.write_text(agent.config.read_text().replace("[monitoring]", 'max_size = "10MB"\n\n[monitoring]'))
    text = agent.run("status").stdout
    assert "MB of at most 10 MB" in text
    assert "full: no new events are stored until space is freed; raise [outbox] max_size\n" in text
    assert len(text) < 2_000
    [outbox_finding] = [each for each in agent.json("check", "--offline") if each["subject"] == "outbox"]
    assert outbox_finding["level"] == "warning" and "is full: it takes" in outbox_finding["message"]


# ---- an outbox of another version


@pytest.mark.parametrize(
    ("version", "code", "level", "words"),
    [
        (5, 0, "warning", "was written by an older version; it is upgraded when hivel-agent run or once starts"),
        (999, 1, "error", "was written by a newer hivel-agent (format version 999"),
    ],
    ids=["older", "newer"],
)
def test_an_older_outbox_keeps_no_agent_from_starting_and_a_newer_one_does(
    tmp_path: Path, version: int, code: int, level: str, words: str
) -> None:
    """The service checks before each start, also before the one that upgrades."""
    agent = configured(tmp_path)
    with closing(sqlite3.connect(agent.outbox)) as file:
        file.execute(f"PRAGMA user_version = {version}")
    assert agent.run("check", "--offline").returncode == code
    [found] = [each for each in agent.json("check", "--offline") if each["subject"] == "outbox"]
    assert (found["level"], words in found["message"]) == (level, True)
    for verb in (["status"], ["queue", "list"], ["queue", "discard", "1"], ["replay", "--failed"]):
        done = agent.run(*verb)
        assert (done.returncode, words in done.stderr) == (1, True), done.stderr
