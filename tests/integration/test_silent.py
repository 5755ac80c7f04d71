"""Jobs that used to deploy and do not any more: in ``status``, and in the metrics of the daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from agent.model.times import rfc3339
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.outbox.values import JobCursor, Progress
from tests.integration.filled import HOUR, NOW, Filled, configured
from tests.integration.support import Agent, wait_until
from tests.integration.test_monitoring import metrics

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agent.model.times import Clock

DAY = 24 * HOUR
LAST = NOW - 20 * DAY


class Stopped:
    """The clock of the outbox stands still at the moment when the tests began."""

    def now_ms(self) -> int:
        return NOW

    def monotonic(self) -> float:
        return 1_000.0


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[Filled]:
    clock: Clock = Stopped()  # type: ignore[assignment]
    agent = configured(tmp_path)
    with SqliteOutbox(agent.outbox, clock) as outbox:
        yield Filled(agent, outbox)


def deployed(filled: Filled, job: str, *, last: int = LAST, builds: int = 6) -> None:
    """One build each day, the last one then; the poller knows of no other."""
    for number in range(1, builds + 1):
        at = last - (builds - number) * DAY
        filled.built(job, number, started_at=at - HOUR, ended_at=at)
    filled.settle()
    goes_on(filled, job, builds)


def goes_on(filled: Filled, job: str, newest: int) -> None:
    filled.outbox.save_progress(Progress("main", cursors=(JobCursor(job, newest + 1, NOW),)))


def silent(agent: Agent) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = agent.json("status")["silent_jobs"]
    return told


def test_a_job_that_builds_and_gives_no_event_is_told_apart_from_one_that_does_not_build(filled: Filled) -> None:
    deployed(filled, "deploy/idle")
    deployed(filled, "deploy/busy")
    deployed(filled, "deploy/alive", last=NOW - DAY)
    deployed(filled, "deploy/new", builds=4)
    goes_on(filled, "deploy/busy", 10)
    busy, idle = silent(filled.agent)
    assert (busy["job"], busy["builds_since"], busy["has_rule"]) == ("deploy/busy", 4, True)
    assert (idle["job"], idle["builds_since"], idle["usual_pause_ms"]) == ("deploy/idle", 0, DAY)
    assert idle["last_deployment_at"] == rfc3339(LAST)
    text = filled.agent.run("status").stdout
    since = f"no deployment since {rfc3339(LAST)} (20d"
    assert f"silent    deploy/busy on main: {since}" in text and "4 build(s) since then, none became an event" in text
    assert f"silent    deploy/idle on main: {since}" in text and "it has had no builds since then" in text


def test_a_rule_that_no_longer_matches_is_named_as_the_reason(filled: Filled) -> None:
    deployed(filled, "deploy/busy")
    goes_on(filled, "deploy/busy", 10)
    config = filled.agent.config
    config.write_text(config.read_text().replace('"deploy/**"', '"deployments/**"'))
    assert "no [[deployment]] rule matches the job any more" in filled.agent.run("status").stdout


def test_a_job_outside_the_folders_that_are_followed_is_not_told(filled: Filled) -> None:
    deployed(filled, "deploy/idle")
    deployed(filled, "deploy/team/idle")
    assert {each["job"] for each in silent(filled.agent)} == {"deploy/idle", "deploy/team/idle"}
    config = filled.agent.config
    config.write_text(config.read_text().replace('name = "main"', 'name = "main"\nroots = ["deploy/team"]'))
    assert [each["job"] for each in silent(filled.agent)] == ["deploy/team/idle"]


def test_how_long_is_silent_is_set_and_nothing_is_told_of_it_at_all(filled: Filled) -> None:
    deployed(filled, "deploy/idle")
    config = filled.agent.config
    before = config.read_text()
    config.write_text(before.replace("[monitoring]", '[monitoring]\nsilent_after = "30d"'))
    assert silent(filled.agent) == []
    config.write_text(before.replace("[monitoring]", '[monitoring]\nsilent_after = ""'))
    assert silent(filled.agent) == []
    config.write_text(before.replace("[monitoring]", "[monitoring]\nsilent_least = 7"))
    assert silent(filled.agent) == []
    config.write_text(before.replace("[monitoring]", "[monitoring]\nsilent_least = 1"))
    done = filled.agent.run("status")
    assert (done.returncode, "monitoring.silent_least" in done.stderr) == (2, True)


def test_the_daemon_counts_them_for_prometheus(filled: Filled) -> None:
    deployed(filled, "deploy/idle")
    deployed(filled, "deploy/busy")
    goes_on(filled, "deploy/busy", 10)
    agent = filled.agent
    daemon = agent.start()
    try:
        wait_until(lambda: "event=started" in agent.log(), "the daemon has started")
        names = [f'hivel_agent_silent_jobs{{builds="{builds}",controller="main"}}' for builds in ("yes", "no")]
        wait_until(lambda: [metrics(agent)[name] for name in names] == [1, 1], "it has looked for silent jobs")
    finally:
        daemon.kill()
        daemon.wait()
