"""``dora`` on an outbox that a test filled: figures, queries that can be typed, CSV, and messages."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

import pytest

from agent.model.deployment import State
from agent.model.status import Status
from agent.model.times import Clock, parse_moment, rfc3339
from agent.outbox.sqlite.engine import SqliteOutbox
from tests.conformance.things import content, deployment, inserted, run
from tests.integration.filled import configured

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.support import Agent

SHOP, API = "https://git.example.test/acme/shop", "https://git.example.test/acme/api"
MINUTE, DAY = 60_000, 86_400_000
MONDAY = parse_moment("2024-12-23")
SPAN = ("--since", "2024-12-23", "--until", "2025-01-08")


class Stored:
    """An agent, and the deployments that a test stores in its outbox."""

    def __init__(self, agent: Agent, outbox: SqliteOutbox) -> None:
        self.agent = agent
        self.outbox = outbox
        self.number = 0

    def add(self, day: float, status: Status = Status.SUCCESS, *, state: State = State.PENDING, **fields: Any) -> int:
        """A deployment that took five minutes and ended so many days after Monday; returns its number."""
        self.number += 1
        ended_at = MONDAY + round(day * DAY)
        said = {"repo_url": SHOP, "started_at": ended_at - 5 * MINUTE, "ended_at": ended_at, "status": status} | fields
        [new] = inserted(self.outbox, deployment(of=run(self.number), state=state, content=content(**said)))
        return new.number

    def figures(self, *options: str) -> dict[str, Any]:
        found: dict[str, Any] = self.agent.json("dora", *(options or SPAN))
        return found


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[Stored]:
    agent = configured(tmp_path)
    with SqliteOutbox(agent.outbox, Clock()) as outbox:
        yield Stored(agent, outbox)


@pytest.fixture
def history(stored: Stored) -> Stored:
    """Three weeks of two repositories, with every state and status, and what belongs to no figure."""
    stored.add(0.5, commit_hash="a" * 40, first_commit_at=MONDAY)
    stored.add(0.6, Status.FAILED, state=State.FAILED)
    stored.add(0.7, Status.CANCELED)
    stored.add(0.8, commit_hash="b" * 40, state=State.HELD)
    stored.add(8, commit_hash="a" * 40)
    stored.add(9, Status.UNKNOWN)
    stored.add(9.5, Status.FAILED)
    stored.add(1, repo_url=API)
    stored.add(2, repo_url=API, environment="staging")
    stored.add(3, repo_url=None, state=State.FAILED)
    stored.add(40)
    number = stored.add(1.5)
    found = stored.outbox.find(str(number))
    assert found is not None
    assert stored.outbox.discard([found], "a test") == [True]
    return stored


def test_the_figures_are_those_of_the_deployments(history: Stored) -> None:
    found = history.figures()
    places = [(group["environment"], group["repo"]) for group in found["groups"]]
    assert places == [("production", API), ("production", SHOP), ("staging", API)]
    assert (found["incomplete"], found["first_ended_at"]) == (1, "2024-12-23T12:00:00.000Z")
    shop = found["groups"][1]
    total, weeks = shop["total"], shop["weeks"]
    assert [(each["week"], each["complete"]) for each in weeks] == [
        ("2024-W52", True), ("2025-W01", True), ("2025-W02", False),
    ]  # fmt: skip
    assert [each["figures"]["successful"]["count"] for each in weeks] == [2, 1, 0]
    assert (total["successful"]["count"], total["successful"]["days_with"], total["successful"]["days"]) == (3, 2, 16)
    assert (total["failed"]["count"], total["failed"]["of"], total["failed"]["share"]) == (2, 5, 0.4)
    assert (total["canceled"]["count"], total["unknown"]["count"]) == (1, 1)
    assert (total["duration"]["median_ms"], total["duration"]["p90_ms"]) == (5 * MINUTE, 5 * MINUTE)
    assert (total["lead_time"]["median_ms"], total["lead_time"]["coverage"]) == (DAY // 2, 0.3333)
    assert total["time_to_next_success"]["median_ms"] == DAY // 5
    assert (total["rollbacks"]["count"], total["rollbacks"]["of"], total["rollbacks"]["estimated"]) == (1, 3, True)
    assert shop["open_failures"]["newest"] == [{"id": 7, "ended_at": rfc3339(MONDAY + round(9.5 * DAY))}]


def listed(agent: Agent, query: dict[str, Any]) -> int:
    """How many deployments ``queue list`` shows with the options of the query."""
    options = [
        word
        for name, value in query.items()
        for each in (value if isinstance(value, list) else [value])
        for word in (f"--{name}", each)
    ]
    return len(agent.json("queue", "list", *options, "--limit", "1000"))


def test_each_query_can_be_typed_and_lists_what_the_figure_counts(history: Stored) -> None:
    shop = history.figures()["groups"][1]
    for of in (shop["total"], shop["weeks"][0]["figures"]):
        for name in ("successful", "failed", "canceled", "unknown"):
            assert listed(history.agent, of[name]["query"]) == of[name]["count"], name
        assert listed(history.agent, of["time_to_next_success"]["query"]) == of["failed"]["count"]
        assert listed(history.agent, of["lead_time"]["query"]) == of["lead_time"]["of"]
    assert listed(history.agent, shop["open_failures"]["query"]) == 1
    assert sorted(shop["total"]["failed"]["query"]["state"]) == ["delivered", "failed", "held", "pending"]


def test_an_environment_and_a_repository_can_be_chosen(history: Stored) -> None:
    found = history.figures(*SPAN, "--environment", "production", "--repo", API)
    assert [(group["environment"], group["repo"]) for group in found["groups"]] == [("production", API)]
    assert found["groups"][0]["total"]["successful"]["count"] == 1


def test_the_text_says_coverage_open_failures_and_what_the_figures_are_not(history: Stored) -> None:
    shown = history.agent.run("dora", *SPAN).stdout
    assert "lead time is known for 33% of the 3 successful deployment(s)" in shown
    assert "1 failed without a later success: 7 (2025-01-01T12:00:00Z)" in shown
    assert "1 deployment(s) without environment or repository are in no figure" in shown
    assert "queue list --state failed --state held" in " ".join(shown.split())
    assert "A failed deployment is not a failed change. ROLLBACKS and REWORK are estimated." in shown
    assert "2025-W02 *" in shown and "2024-W52 *" not in shown


def test_the_csv_has_a_line_for_each_week_and_no_formula(stored: Stored) -> None:
    stored.add(0.5, environment="=HYPERLINK(1)", repo_url="@SUM(A1)")
    shown = stored.agent.run("dora", *SPAN, "--csv").stdout
    lines = list(csv.DictReader(io.StringIO(shown)))
    assert [each["week"] for each in lines] == ["2024-W52", "2025-W01", "2025-W02"]
    assert {each["environment"] for each in lines} == {"'=HYPERLINK(1)"}
    assert {each["repo"] for each in lines} == {"'@SUM(A1)"}
    first, second, third = lines
    assert (first["successful"], first["duration_median_ms"], first["failed_share"]) == ("1", "300000", "0.0")
    assert (second["successful"], second["duration_median_ms"], second["failed_share"]) == ("0", "", "")
    assert (second["complete"], third["complete"]) == ("yes", "no")


def test_names_of_others_do_not_steer_the_terminal(stored: Stored) -> None:
    stored.add(0.5, environment="[red]\x1b[31mprod", repo_url="https://git.example.test/\u202egpj")
    shown = stored.agent.run("dora", *SPAN).stdout
    assert "\x1b" not in shown and "\u202e" not in shown
    assert "[red]" in shown


def test_a_name_that_only_older_deployments_have_is_known(history: Stored) -> None:
    ended = history.agent.run("dora", "--since", "1d", "--environment", "staging")
    assert (ended.returncode, "no deployments" in ended.stdout) == (0, True)


def test_without_deployments_the_verb_says_so(stored: Stored) -> None:
    assert "no deployments" in stored.agent.run("dora").stdout
    assert stored.figures("--environment", "production")["groups"] == []
    assert len(stored.agent.run("dora", "--csv").stdout.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--csv", "--json"), "--csv and --json: choose one"),
        (("--since", "90 days"), "write 90d"),
        (("--since", "2025-01-05", "--until", "2025-01-05"), "must be before --until"),
        (("--since", "2999-01-01"), "must be before --until now"),
        (("--since", "2998-01-01", "--until", "2999-01-01"), "is in the future"),
        (("--since", "1990-01-01"), "at most 530 weeks"),
        ((*SPAN, "--environment", "prod"), "has 'prod'; there are production, staging"),
        ((*SPAN, "--repo", "shop"), f"has 'shop'; there are {API}, {SHOP}"),
    ],
    ids=str,
)
def test_wrong_options_are_refused_with_what_to_write(history: Stored, options: tuple[str, ...], message: str) -> None:
    ended = history.agent.run("dora", *options)
    assert ended.returncode == 2
    assert message in " ".join(ended.stderr.split())
    assert "Traceback" not in ended.stderr


def test_a_missing_outbox_is_not_created(tmp_path: Path) -> None:
    agent = configured(tmp_path)
    ended = agent.run("dora")
    assert ended.returncode == 1
    assert "there is no outbox" in ended.stderr
    assert not agent.outbox.exists()


def test_several_states_can_be_listed(history: Stored) -> None:
    shown = history.agent.json("queue", "list", "--state", "held", "--state", "discarded", "--state", "held")
    assert [each["state"] for each in shown] == ["discarded", "held"]
    assert len(history.agent.json("queue", "list", "--repo", API)) == 2
