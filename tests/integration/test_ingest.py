"""The one door into the outbox, with a real file behind it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from msgspec.structs import replace

from agent.ingest import ingest as ingesting
from agent.ingest.ingest import Ingest
from agent.model import fact as facts
from agent.model.deployment import State
from agent.model.fact import Fact, Kind, Report
from agent.model.keys import Run, run_of_id
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.outbox.values import JobCursor, OpenBuild, Progress, Renamed
from tests.integration.support import FakeClock
from tests.unit.facts import FORMER, HOLD_FOR, HOUR, MINUTE, NOON, PROJECT, REPO, RULES, RUN, World, build, lived
from tests.unit.facts import rules as rules_of
from tests.unit.facts import said as said_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.deployments.derive import Rules


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOON)


@pytest.fixture
def outbox(tmp_path: Path, clock: FakeClock) -> Iterator[SqliteOutbox]:
    with SqliteOutbox(tmp_path / "outbox.db", clock) as outbox:
        yield outbox


def door(outbox: SqliteOutbox, rules: Rules | None = None) -> Ingest:
    return Ingest(outbox, rules or rules_of(), HOLD_FOR)


def final(number: int = 12, start: int = NOON) -> Fact:
    return facts.final(Run(PROJECT, str(number)), build(start, start + MINUTE), at=start + MINUTE)


def report(number: int = 12, at: int = NOON, **fields: object) -> Fact:
    return facts.report(Run(PROJECT, str(number)), said_of("v1", **fields), source="emit", at=at)


def test_a_final_build_is_one_pending_deployment_and_the_same_again_changes_nothing(outbox: SqliteOutbox) -> None:
    accepted = door(outbox).accept([final()])
    assert [row.deployment_id for row in accepted.deployments] == ["main:deploy/shop#12"]
    again = door(outbox).accept([final()])
    assert (again.deployments, again.known) == ([], 1)
    assert outbox.counts().pending == 1


def test_facts_and_cursor_are_stored_together_or_not_at_all(
    outbox: SqliteOutbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    cursor = JobCursor("deploy/shop", 13, NOON, 12, NOON)

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(outbox, "store", fail)
    with pytest.raises(KeyboardInterrupt):
        door(outbox).accept([final()], Progress("main", (cursor,)))
    assert outbox.job("main", "deploy/shop") is None
    monkeypatch.undo()
    door(outbox).accept([final()], Progress("main", (cursor,)))
    assert outbox.job("main", "deploy/shop") == cursor
    assert outbox.counts().pending == 1


def test_an_id_that_something_else_has_is_not_given_twice(outbox: SqliteOutbox) -> None:
    """Somebody gave the id of a build to a deployment of their own."""
    theirs = Report(provider="other", status="success", repo_url=REPO, branch="main", environment="eu")
    door(outbox).accept([facts.report(run_of_id("main:deploy/shop#12"), theirs, source="emit", at=NOON + HOUR)])
    door(outbox).accept([final(), final(13)])
    ids = {row.deployment_id for row in outbox.all_deployments()}
    assert ids == {"main:deploy/shop#12", f"main:deploy/shop#12@{NOON}", "main:deploy/shop#13"}


def test_many_builds_with_one_taken_id_among_them(outbox: SqliteOutbox) -> None:
    theirs = Report(provider="other", status="success", repo_url=REPO, branch="main", environment="eu")
    door(outbox).accept([facts.report(run_of_id("main:deploy/shop#50"), theirs, source="emit", at=NOON + HOUR)])
    accepted = door(outbox).accept([final(number) for number in range(1, 101)])
    assert len(accepted.deployments) == 100
    assert outbox.counts().pending == 101


def test_an_exception_that_nobody_expected_sets_aside_its_run_and_nothing_else(
    outbox: SqliteOutbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ingesting.derive

    def derive(told: tuple[Fact, ...], *others: object) -> object:
        if any(fact.run.number == "12" for fact in told):
            raise RuntimeError("nobody expected this")
        return real(told, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(ingesting, "derive", derive)
    accepted = door(outbox).accept([final(11), final(12), final(13)])
    assert [row.deployment_id for row in accepted.deployments] == ["main:deploy/shop#11", "main:deploy/shop#13"]
    [aside] = outbox.things_set_aside(10)
    assert (aside.kind, aside.subject) == ("run", "main:deploy/shop#12")
    assert "nobody expected this" in aside.error
    monkeypatch.undo()  # mended: its facts are there
    accepted = door(outbox).derive_again([RUN])
    assert [row.deployment_id for row in accepted.deployments] == ["main:deploy/shop#12"]


def test_a_build_that_was_seen_and_is_gone_leaves_nothing_if_nobody_reported_it(outbox: SqliteOutbox) -> None:
    door(outbox).accept([facts.gone(RUN, started_at=NOON, at=NOON + MINUTE)])
    assert outbox.facts(RUN) == []


def test_a_reported_build_that_no_poll_knows_is_wanted_and_one_that_is_followed_is_not(outbox: SqliteOutbox) -> None:
    door(outbox).accept([report(12)])
    assert [(build.full_name, build.number) for build in outbox.wanted_builds("main")] == [("deploy/shop", 12)]
    followed = {"deploy/shop": (OpenBuild(13, seen=True, first_seen_at=NOON, started_at=NOON),)}
    door(outbox).accept([], Progress("main", open_builds=followed))
    door(outbox).accept([report(13)])
    assert [build.number for build in outbox.wanted_builds("main")] == [12]


def test_a_reported_build_of_a_controller_that_nobody_polls_is_not_wanted(outbox: SqliteOutbox) -> None:
    door(outbox, rules_of(controllers=())).accept([report()])
    assert outbox.wanted_builds("main") == []
    assert outbox.counts().pending == 1


def test_what_was_held_long_enough_is_released_and_nothing_else(outbox: SqliteOutbox, clock: FakeClock) -> None:
    door(outbox).accept([report(12)])
    clock.advance(ms=HOLD_FOR // 2)
    door(outbox).accept([report(13, NOON + HOLD_FOR // 2)])
    assert door(outbox).release() == []
    clock.advance(ms=HOLD_FOR // 2 + 1)
    assert [row.deployment_id for row in door(outbox).release()] == ["main:deploy/shop#12"]
    assert (outbox.counts().pending, outbox.counts().held) == (1, 1)


def test_a_shorter_hold_releases_only_what_has_been_held_for_that_long(outbox: SqliteOutbox, clock: FakeClock) -> None:
    door(outbox).accept([report(12)])
    clock.advance(ms=10 * MINUTE)
    door(outbox).accept([report(13, NOON + 10 * MINUTE)])
    shorter = Ingest(outbox, rules_of(), 8 * MINUTE)
    assert [row.deployment_id for row in shorter.release()] == ["main:deploy/shop#12"]
    assert outbox.counts().held == 1


def test_a_clock_that_is_set_back_releases_nothing_early(outbox: SqliteOutbox, clock: FakeClock) -> None:
    door(outbox).accept([report(12)])
    clock.advance(ms=-10 * HOUR)
    assert door(outbox).release() == []
    clock.advance(ms=HOLD_FOR + 1)
    assert len(door(outbox).release()) == 1


def test_a_build_that_was_reported_under_the_former_name_of_its_job_is_one_deployment(outbox: SqliteOutbox) -> None:
    former = JobCursor("old/shop", 12, NOON, 11, NOON - HOUR)
    outbox.save_progress(Progress("main", (former,)))
    door(outbox).accept([facts.report(Run(FORMER, "12"), said_of("v1", image="x"), source="emit", at=NOON)])
    moved = Progress("main", (JobCursor("deploy/shop", 13, NOON),), renamed=(Renamed(former, "deploy/shop"),))
    accepted = door(outbox).accept([final()], moved)
    [row] = accepted.deployments
    assert (row.content.image, row.known) == ("x", True)
    assert outbox.counts().held == 0


def test_an_event_that_changes_while_it_is_sent_is_delivered_as_it_was_sent(outbox: SqliteOutbox) -> None:
    from agent.outbox.values import Settlement

    door(outbox).accept([final()])
    [claimed] = outbox.claim(10)
    door(outbox).accept([report(at=NOON + 2 * MINUTE, environment="staging", image="shop:2")])
    [row] = outbox.all_deployments()
    assert (row.revision, row.content.environment) == (2, "staging")
    outbox.settle([Settlement(claimed, State.DELIVERED, True, NOON, 1, 200, "delivered", "")])
    [row] = outbox.all_deployments()
    assert (row.state, row.sent_revision, row.content.environment, row.content.image) == (
        State.DELIVERED, 1, "production", None,
    )  # fmt: skip


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(st.data(), st.sampled_from(RULES))
def test_the_file_holds_what_the_plan_says_whatever_comes_in_which_order(data: st.DataObject, rules: Rules) -> None:
    """The same story in memory and in the file, with deliveries in between."""
    told = data.draw(st.permutations([fact for _, fact in data.draw(lived(NOON, seen=False)).all]))
    clock, world = FakeClock(NOON), World(rules)
    with tempfile.TemporaryDirectory() as folder, SqliteOutbox(Path(folder) / "outbox.db", clock) as outbox:
        ingest = Ingest(outbox, rules, HOLD_FOR)
        for fact in told:
            world.accept(fact)
            ingest.accept([fact])
            if data.draw(st.booleans()):
                world.deliver()
                _deliver(outbox)
        stored = sorted(map(_plain, outbox.all_deployments()))
        assert stored == sorted(map(_plain, world.rows))


def _deliver(outbox: SqliteOutbox) -> None:
    from agent.outbox.values import Settlement

    outbox.settle([
        Settlement(claimed, State.DELIVERED, True, NOON, 1, 200, "delivered", "") for claimed in outbox.claim(100)
    ])  # fmt: skip


def _plain(row: object) -> str:
    """A row but for what the delivery and the clock write."""
    return repr(replace(row, number=0, attempts=0, settled_at=None, reason=None, next_attempt_at=0))  # type: ignore[type-var]


def test_a_gone_build_with_a_report_stays_known(outbox: SqliteOutbox) -> None:
    door(outbox).accept([report()])
    door(outbox).accept([facts.gone(RUN, started_at=NOON, at=NOON + MINUTE)])
    assert {fact.kind for fact in outbox.facts(RUN)} == {Kind.REPORT, Kind.GONE}
