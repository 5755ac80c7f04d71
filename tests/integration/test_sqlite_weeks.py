"""The kept sums of weeks give the same figures of DORA as the deployments themselves, whatever happens to these."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.inspect.dora.figures import Collected, dora
from agent.inspect.dora.weeks import Span
from agent.model.deployment import State
from agent.model.status import Status
from agent.model.weeks import DAY_MS, WEEK_MS, begin_of, week_of
from agent.outbox.sql import weeks
from agent.outbox.sqlite import connection, migrations, swap
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.outbox.sqlite.repair import repair
from agent.outbox.sqlite.upgrade import upgrade
from agent.outbox.tally import DeployedWeek, Sums
from agent.outbox.values import Change, DamagedError, Deployed, Filter, Keep, Page
from tests.conformance.things import clean_up, content, deployment, inserted, refusal, rewritten, run, success
from tests.integration.older import POLLED, unpacked
from tests.integration.support import NOON, FakeClock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agent.model.deployment import Deployment
    from agent.outbox.interface import Outbox

SHOP, API = "https://git.example.test/acme/shop", "https://git.example.test/acme/api"
FOREVER = Keep(9_999 * DAY_MS, 9_999 * DAY_MS, 9_999 * DAY_MS)
MONDAY = begin_of(week_of(NOON))
# What is kept until now, weeks that are whole, and parts of weeks at both ends.
SPANS = (
    Span(MONDAY - 4 * WEEK_MS, MONDAY + WEEK_MS),
    Span(MONDAY - 3 * WEEK_MS, MONDAY - WEEK_MS),
    Span(MONDAY - 3 * WEEK_MS + DAY_MS, MONDAY - DAY_MS),
    Span(MONDAY - 2 * WEEK_MS - 1, MONDAY - 2 * WEEK_MS + 1),
)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def outbox(tmp_path: Path, clock: FakeClock) -> Iterator[SqliteOutbox]:
    with SqliteOutbox(tmp_path / "o.db", clock) as outbox:
        yield outbox


def add(outbox: Outbox, number: int, end: int, **changes: Any) -> Deployment:
    """A deployment that ended so many milliseconds after the Monday four weeks ago."""
    state = changes.pop("state", State.PENDING)
    ended_at = MONDAY - 4 * WEEK_MS + end
    said = {"repo_url": SHOP, "started_at": ended_at - 5_000, "ended_at": ended_at} | changes
    return inserted(outbox, deployment(of=run(number), state=state, content=content(**said)))[0]


def add_up(outbox: SqliteOutbox) -> None:
    clean_up(outbox, FOREVER)


def check(outbox: Outbox) -> None:
    """The same figures from the sums, from the rows, and from the deployments."""
    there = sorted(outbox.all_deployments(), key=lambda each: (each.content.ended_at, each.number))
    for span in SPANS:
        rows = [deployed(each) for each in there if counts(each, span)]
        expected = dora(rows, span)
        assert dora(outbox.deployed(*span), span) == expected
        assert dora(outbox.deployed_by_week(*span), span) == expected
        one = dora(outbox.deployed_by_week(*span, environment="production", repo_url=SHOP), span)
        place = ("production", SHOP)
        assert one.groups == tuple(group for group in expected.groups if (group.environment, group.repo) == place)
        assert [group.total for group in Collected(outbox.deployed_by_week(*span), span).dora(weeks=False).groups] == [
            group.total for group in expected.groups
        ]


def counts(each: Deployment, span: Span) -> bool:
    return each.state is not State.DISCARDED and span.since <= each.content.ended_at < span.until


def deployed(each: Deployment) -> Deployed:
    said = each.content
    times = said.first_commit_at, said.started_at, said.ended_at
    hotfix = (said.branch or "").lower().startswith(("hotfix/", "hotfix-"))
    return Deployed(each.number, said.status, said.environment, said.repo_url, said.commit_hash, *times, hotfix)


def kept(outbox: SqliteOutbox) -> tuple[int, int]:
    """The weeks with sums, and those without."""
    with_sums, without = outbox._one("SELECT count(body), count(*) - count(body) FROM weeks")
    return with_sums, without


# ---- whatever happens

ENDS = st.integers(0, 60).map(lambda n: n * DAY_MS // 2) | st.integers(0, 5 * WEEK_MS - 1)
SAID = st.fixed_dictionaries(
    {
        "status": st.sampled_from([*[Status.SUCCESS] * 3, Status.FAILED, *Status]),
        "environment": st.sampled_from([*["production"] * 8, "staging", None, ""]),
        "repo_url": st.sampled_from([*[SHOP] * 8, API, None]),
        "commit_hash": st.sampled_from(["a", "b", "c", None]),
        "branch": st.sampled_from(["main", None, "hotfix/x", "Hotfix-1", "hotfixes", "x/hotfix/y"]),
        "took": st.sampled_from([0, 1, 60_000, -1]),
        "waited": st.sampled_from([None, 0, 60_000, DAY_MS, -1]),
    }
)
STEPS = st.one_of(
    *[st.tuples(st.just("insert"), st.tuples(ENDS, SAID, st.sampled_from([State.HELD, State.PENDING, State.FAILED])))]
    * 3,
    st.tuples(st.just("rewrite"), st.tuples(st.integers(0, 9), ENDS, SAID)),
    st.tuples(st.just("settle"), st.sampled_from([success, refusal])),
    st.tuples(st.sampled_from(["remove", "discard", "replay"]), st.integers(0, 9)),
    st.tuples(st.sampled_from(["prune", "crash", "add up", "add up", "check"]), st.none()),
)


def said_at(end: int, said: dict[str, Any]) -> Any:
    ended_at, said = MONDAY - 4 * WEEK_MS + end, dict(said)
    waited = said.pop("waited")
    times = {
        "started_at": ended_at - said.pop("took"),
        "first_commit_at": None if waited is None else ended_at - waited,
    }
    return content(**said, **times, ended_at=ended_at)


@given(steps=st.lists(STEPS, max_size=40))
def test_the_figures_are_those_of_the_deployments_whatever_happens_to_them(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, Any]]
) -> None:
    """Stored, rewritten, settled, discarded, replayed, removed, deleted and rolled back, between additions."""
    path, clock = tmp_path_factory.mktemp("weeks") / "o.db", FakeClock()
    with SqliteOutbox(path, clock) as outbox, SqliteOutbox(path, clock) as other:
        for number, (step, how) in enumerate(steps, 1):
            if step == "crash":
                with pytest.raises(ZeroDivisionError), outbox.transaction():
                    add(outbox, number, 0)
                    add_up(outbox)
                    raise ZeroDivisionError
            elif step == "prune":
                clock.advance(s=1)
                clean_up(outbox, Keep(0, 0, DAY_MS))
            elif step == "add up":
                add_up(outbox)
            elif step == "check":
                check(other)
            else:
                _change(outbox, number, step, how)
        check(other)
        add_up(outbox)
        check(other)


def _change(outbox: SqliteOutbox, number: int, step: str, how: Any) -> None:
    if step == "insert":
        end, said, state = how
        inserted(outbox, deployment(of=run(number), state=state, content=said_at(end, said)))
    elif step == "settle":
        outbox.settle([how(claimed) for claimed in outbox.claim(1)])
    elif there := list(outbox.all_deployments()):
        each = there[(how[0] if step == "rewrite" else how) % len(there)]
        if step == "rewrite" and each.state in (State.HELD, State.PENDING, State.FAILED):
            rewritten(outbox, each, content=said_at(*how[1:]))
        elif step == "remove":
            outbox.store([Change(removed=(each,))])
        elif step == "discard":
            outbox.discard([each], "why")
        elif step == "replay":
            outbox.replay([each])


# ---- what is kept


def test_a_week_is_added_up_again_when_something_in_it_has_changed(outbox: SqliteOutbox, clock: FakeClock) -> None:
    """The current week is added up at most every ten minutes: it changes all the time."""
    first = add(outbox, 1, 0)
    add(outbox, 2, 4 * WEEK_MS)
    add_up(outbox)
    assert kept(outbox) == (2, 0)
    outbox.discard([first], "why")
    add(outbox, 3, 4 * WEEK_MS + 1)
    assert kept(outbox) == (0, 2)
    add_up(outbox)
    assert kept(outbox) == (0, 1), "there is nothing in the first week, and the current one waits"
    clock.advance(ms=weeks.CURRENT_MS)
    add_up(outbox)
    assert kept(outbox) == (1, 0)


def test_a_week_of_which_only_a_part_is_asked_for_is_read_from_its_deployments(outbox: SqliteOutbox) -> None:
    add(outbox, 1, 5)
    add(outbox, 2, 9)
    add_up(outbox)
    begin = MONDAY - 4 * WEEK_MS
    found = {
        (since, until): [type(each) for each in outbox.deployed_by_week(begin + since, begin + until)]
        for since, until in ((0, WEEK_MS), (5, 10), (6, 10), (5, 9), (6, 9))
    }
    assert list(found.values()) == [[DeployedWeek], [DeployedWeek], [Deployed], [Deployed], []]


@pytest.mark.parametrize(
    "change",
    [
        {"status": Status.FAILED},
        {"environment": "staging"},
        {"environment": None},
        {"repo_url": API},
        {"repo_url": None},
        {"commit_hash": "b"},
        {"commit_hash": None},
        {"branch": "hotfix/x"},
        {"first_commit_at": 5},
        {"first_commit_at": None},
        {"started_at": 5},
        {"ended_at": MONDAY - 2 * WEEK_MS},
    ],
    ids=str,
)
def test_each_change_that_a_figure_depends_on_empties_the_sums(outbox: SqliteOutbox, change: dict[str, Any]) -> None:
    said = {"commit_hash": "a", "first_commit_at": 4}
    each = add(outbox, 1, 0, **said)
    add_up(outbox)
    check(outbox)
    rewritten(outbox, each, content=replace(each.content, **change))
    assert kept(outbox)[0] == 0
    check(outbox)
    add_up(outbox)
    assert kept(outbox) == (1, 0)
    check(outbox)


def test_what_no_figure_depends_on_keeps_the_sums(outbox: SqliteOutbox) -> None:
    each = add(outbox, 1, 0)
    add_up(outbox)
    rewritten(outbox, each, content=replace(each.content, branch="other", image="x", logs_url="y"))
    assert kept(outbox) == (1, 0)


def test_a_replay_of_a_discarded_deployment_empties_the_sums(outbox: SqliteOutbox) -> None:
    first = add(outbox, 1, 0)
    add(outbox, 2, 1)
    outbox.discard([first], "why")
    add_up(outbox)
    check(outbox)
    outbox.replay([outbox.query(Filter(), Page())[1]])
    assert kept(outbox) == (0, 1)
    check(outbox)


def test_a_delivery_changes_no_sums(outbox: SqliteOutbox) -> None:
    add(outbox, 1, 0)
    add_up(outbox)
    outbox.settle([success(claimed) for claimed in outbox.claim(9)])
    assert kept(outbox) == (1, 0)
    assert len([each for each in outbox.deployed_by_week(*SPANS[0]) if isinstance(each, DeployedWeek)]) == 1


def test_a_repair_and_an_upgrade_leave_weeks_to_be_added_up(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swap, "HOLD_S", 0.0)
    path = tmp_path / "outbox.db"
    with SqliteOutbox(path, clock) as outbox:
        for number in range(30):
            add(outbox, number, number * DAY_MS, status=Status.FAILED if number % 5 == 0 else Status.SUCCESS)
        add_up(outbox)
        assert kept(outbox) == (5, 0)
    repair(path, clock, "a test", [])
    with SqliteOutbox(path, clock) as outbox:
        assert kept(outbox) == (0, 5)
        check(outbox)
        add_up(outbox)
        assert kept(outbox) == (5, 0)
        check(outbox)


@pytest.mark.parametrize("version", [1, 3, 5])
def test_a_file_of_an_older_version_has_all_weeks_hours_and_names(
    tmp_path: Path, clock: FakeClock, version: int
) -> None:
    path = unpacked(tmp_path, version)
    upgrade(path, clock, POLLED)
    with SqliteOutbox(path, clock) as outbox:
        complete(outbox)


def test_a_file_of_version_7_gets_them_when_it_is_opened(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "outbox.db"
    with SqliteOutbox(tmp_path / "now.db", clock) as outbox:
        for number in range(30):
            add(outbox, number, number * DAY_MS, repo_url=(SHOP, API, None)[number % 3])
        outbox.settle([success(claimed) for claimed in outbox.claim(20)])
    with monkeypatch.context() as older:
        before = migrations._scripts()[:2]
        older.setattr(migrations, "_scripts", lambda: before)
        older.setattr(migrations, "VERSION", 7)
        connection.open_outbox(path).close()
    with closing(sqlite3.connect(path)) as old:
        old.execute("ATTACH ? AS now", (str(tmp_path / "now.db"),))
        for name in ("projects", "deployments"):
            old.execute(f"INSERT INTO {name} SELECT * FROM now.{name}")
        old.commit()
        assert old.execute("PRAGMA user_version").fetchone() == (7,)
    with SqliteOutbox(path, clock) as outbox:
        complete(outbox)
        assert outbox.names().environments == ["production"]


def complete(outbox: SqliteOutbox) -> None:
    """All weeks, hours and names are those of the deployments, before and after the weeks are added up."""
    there = list(outbox.all_deployments())
    assert there
    done = [each for each in there if each.state in (State.DELIVERED, State.FAILED)]
    hours = outbox.per_hour(0)
    assert sum(each.delivered + each.failed for each in hours) == len(done)
    names = {each.content.environment for each in there}
    assert outbox.names().environments == sorted(name for name in names if name)
    assert [each.number for each in outbox.search(Filter(), Page(999)).deployments] == [n.number for n in there[::-1]]
    span = Span(0, outbox.clock.now_ms() + WEEK_MS)
    for _ in range(2):
        expected = list(outbox.deployed(*span))
        found = list(outbox.deployed_by_week(*span))
        assert len(expected) == sum(each.sums.deployments if isinstance(each, DeployedWeek) else 1 for each in found)
        add_up(outbox)


# ---- faults


def test_sums_of_another_kind_of_machine_are_not_used(outbox: SqliteOutbox) -> None:
    add(outbox, 1, 0)
    add_up(outbox)
    [week] = outbox.deployed_by_week(*SPANS[0])
    assert isinstance(week, DeployedWeek)
    values = {name: getattr(week.sums, name) for name in Sums.__struct_fields__}
    foreign = Sums(**(values | {"byte_order": "middle"}))
    outbox._connection.execute("UPDATE weeks SET body = ?", (weeks._ENCODE(foreign),))
    assert [type(each) for each in outbox.deployed_by_week(*SPANS[0])] == [Deployed]


def test_sums_that_make_no_sense_are_a_damaged_outbox(outbox: SqliteOutbox) -> None:
    add(outbox, 1, 0)
    outbox._connection.execute("UPDATE weeks SET body = x'00'")
    with pytest.raises(DamagedError, match="the sums of a week"):
        list(outbox.deployed_by_week(*SPANS[0]))


def test_an_iteration_that_was_given_up_leaves_the_outbox_usable(outbox: SqliteOutbox) -> None:
    add(outbox, 1, 0)
    add(outbox, 2, WEEK_MS)
    found = outbox.deployed_by_week(*SPANS[0])
    next(found)
    found.close()  # type: ignore[attr-defined]
    add(outbox, 3, 0)
    assert list(outbox.deployed_by_week(5, 5)) == []
