"""What webhooks lose is found by the platforms' APIs, once."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from contextlib import closing, contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from starlette.datastructures import Headers
from starlette.responses import Response

from agent.config.file import load
from agent.config.rules import Pattern
from agent.config.settings import WebhookRule
from agent.daemon import stored
from agent.daemon.gaps import EVENT, GapStore
from agent.daemon.hooks import Arrived, store
from agent.daemon.monitoring import _gap_repair
from agent.ingest.ingest import Ingest
from agent.inspect.derived import rules_of
from agent.model.part import Part
from agent.model.times import Clock
from agent.outbox.offloop import OffLoop
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.sandbox.hivel.answers import json_answer
from agent.sources.reports.accept import Reports
from agent.sources.webhooks.gaps.completion import Completion
from agent.sources.webhooks.gaps.repair import FIRST_RETRY_S, INTERVAL_S, LEAST_S, SOON_S, GapRepair
from agent.sources.webhooks.headers import event_of
from agent.sources.webhooks.platforms import READERS
from agent.sources.webhooks.values import Delivery
from tests.engines import on_both_engines
from tests.integration.platforms import World, world
from tests.integration.support import Agent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from agent.config.settings import Settings, WebhookSettings
    from agent.model.deployment import Content
    from agent.outbox.interface import Outbox
    from agent.sandbox.platforms import Deployed
    from agent.sources.webhooks.values import Invalid, Meaning
    from tests.engines import Engine

KINDS = ("github", "gitlab", "circleci", "azure_devops")
HOUR = 3_600_000
RULE = WebhookRule(Pattern.parse("acme/*"), Pattern.parse("deploy*"), "production")


class Repairing:
    """Gap repair of one hook, with an outbox."""

    def __init__(self, world: World, settings: Settings, outbox: Outbox) -> None:
        self.world = world
        self.clock = world.clock
        self.outbox = outbox
        self.reports = Reports(settings, Ingest(outbox, rules_of(settings), settings.hold_for_ms))
        self.repair = self.restarted()

    def restarted(self, *hooks: WebhookSettings) -> GapRepair:
        """As after a start of the agent."""
        self.repair = GapRepair(hooks or [self.world.hook], READERS, _Later(self), self.clock, random.Random(7))
        return self.repair

    def run(self, *, after_s: float = INTERVAL_S) -> int:
        """Look after this time; returns how many requests that took."""
        before = len(self.world.platform.requests)
        self.clock.advance(s=after_s)

        async def run() -> None:
            async with OffLoop("gap repair") as off_loop:
                self.off_loop = off_loop
                await self.repair.run()

        asyncio.run(run())
        return len(self.world.platform.requests) - before

    def webhook(self, deployed: Deployed) -> None:
        """Its webhooks arrive."""
        hook = self.world.hook
        for webhook in self.world.platform._module.webhooks(deployed):
            body = Part(webhook.body, "")
            delivery = Delivery(event_of(hook.platform, Headers(webhook.headers), body), "", body, self.clock.now_ms())
            meaning = asyncio.run(self._completed(delivery, READERS[hook.platform](delivery, hook)))
            store(self.reports, [Arrived(hook, delivery, meaning)])

    async def _completed(self, delivery: Delivery, meaning: Meaning) -> Meaning | Invalid:
        async with Completion([self.world.hook], self.clock) as completion:
            return await completion.completed(self.world.hook, delivery, meaning)

    @property
    def found(self) -> int:
        """How many missed deployments were found, as ``status`` shows it."""
        return sum(look.found for look in self.outbox.gap_looks())

    @property
    def errors(self) -> list[str]:
        return [look.error for look in self.outbox.gap_looks() if look.error]

    def contents(self) -> list[tuple[str | None, Content]]:
        """All that Hivel gets, without the links: the local platform's address is not that of its pages."""
        rows = self.outbox.all_deployments()
        return [(each.deployment_id, msgspec.structs.replace(each.content, logs_url=None)) for each in rows]

    def events(self) -> list[tuple[str, str, str, str]]:
        """Each deployment by commit, with what Hivel gets."""
        rows = [each.content for each in self.outbox.all_deployments()]
        return sorted((str(row.commit_hash), str(row.environment), str(row.status), str(row.branch)) for row in rows)


class _Later(GapStore):
    """The store in the thread of the current run."""

    def __init__(self, repairing: Repairing) -> None:
        super().__init__(repairing.reports, self._run)  # type: ignore[arg-type]
        self._repairing = repairing

    async def _run(self, call: Callable[..., Any], *arguments: Any) -> Any:
        return call(*arguments)


@contextmanager
def repairing(kind: Any, tmp_path: Path, engine: Engine, **hook: Any) -> Iterator[Repairing]:
    """Started, and looked once: what ends from now on is to be found."""
    agent = Agent.configured(tmp_path, jenkins="http://127.0.0.1:1", hivel="http://127.0.0.1:1")
    # GitHub and GitLab know which runs are deployments.
    rules = (RULE,) if kind in ("circleci", "azure_devops") else ()
    with world(kind, engine.clock, rules=rules, **hook) as found, closing(engine.open()) as outbox:
        found.platform.deploy(ended_at=found.clock.now_ms() - HOUR)  # before the hook existed
        repairing = Repairing(found, load(agent.config), outbox)
        repairing.run()
        assert (repairing.found, repairing.errors) == (0, [])
        yield repairing


@pytest.fixture(params=KINDS)
def any_repair(request: pytest.FixtureRequest, tmp_path: Path, engine: Engine) -> Iterator[Repairing]:
    with repairing(request.param, tmp_path, engine) as found:
        yield found


@pytest.fixture
def github(tmp_path: Path, engine: Engine) -> Iterator[Repairing]:
    with repairing("github", tmp_path, engine) as found:
        yield found


def outage(one: Repairing, count: int = 200, hours: int = 6) -> list[Deployed]:
    """Deployments of several branches and results that end within some hours, which pass."""
    begin, step = one.clock.now_ms() + 60_000, hours * HOUR // count - 1_000
    outcomes = ("success", "success", "failed", "canceled")
    deployed = [
        one.world.platform.deploy(
            ended_at=begin + i * step, outcome=outcomes[i % 4], branch=f"release/{i % 3}", job=f"deploy-{i % 5}"
        )
        for i in range(count)
    ]
    one.clock.advance(ms=hours * HOUR)
    return deployed


def expected(one: Repairing, deployed: list[Deployed]) -> list[tuple[str, str, str, str]]:
    """What :meth:`Repairing.events` should be. GitHub has no word for canceled deployments: their state is error."""
    canceled = "failed" if one.world.platform.kind == "github" else "canceled"
    words = {"success": "success", "failed": "failed", "canceled": canceled}
    return sorted((each.commit, each.environment, words[each.outcome], each.branch) for each in deployed)


def test_an_outage_of_six_hours_with_200_missed_deployments(any_repair: Repairing) -> None:
    """200 found, 0 doubled; further looks find nothing."""
    deployed = outage(any_repair)
    any_repair.run()
    assert any_repair.events() == expected(any_repair, deployed)
    assert (any_repair.found, any_repair.errors) == (200, [])
    for _ in range(2):
        any_repair.run()
    assert any_repair.events() == expected(any_repair, deployed)
    assert any_repair.found == 200


def test_what_arrived_by_webhook_is_not_found_again(any_repair: Repairing) -> None:
    deployed = outage(any_repair, 100)
    for each in deployed[::2]:
        any_repair.webhook(each)
    before = any_repair.events()
    any_repair.run()
    assert any_repair.events() == expected(any_repair, deployed)
    assert set(before) < set(any_repair.events())
    assert any_repair.found == 50


def test_a_webhook_that_arrives_after_it_was_found_changes_nothing(any_repair: Repairing) -> None:
    deployed = outage(any_repair, 10)
    any_repair.run()
    first = any_repair.contents()
    for each in deployed:
        any_repair.webhook(each)
    assert any_repair.contents() == first


def test_what_emit_reported_is_not_found_again(any_repair: Repairing) -> None:
    """The job reports itself with the id that the webhook and the API have, too."""
    deployed = outage(any_repair, 30)
    for each in deployed[::3]:
        any_repair.reports.take(
            by_emit(any_repair.world.platform.kind, each), source="emit", at=any_repair.clock.now_ms()
        )
    any_repair.run()
    assert [commit for commit, *_ in any_repair.events()] == sorted(each.commit for each in deployed)
    assert any_repair.found == 20


def by_emit(kind: str, each: Deployed) -> dict[str, object]:
    runs = {
        "github": ("github_actions", f"github_actions:{each.project}#{each.run}/{each.job}"),
        "gitlab": ("gitlab_ci", f"gitlab_ci:{each.project}#{each.job_number}"),
        "circleci": ("circleci", f"circleci:{each.project}#{each.job_number}"),
        "azure_devops": ("azure_devops", f"azure_devops:{each.project}#{each.run}/{each.job}"),
    }
    provider, run = runs[kind]
    return {
        "provider": provider, "run": run, "job": each.job, "status": each.outcome, "environment": each.environment,
        "repo_url": f"https://git.example.test/{each.project}", "branch": each.branch, "commit_hash": each.commit,
    }  # fmt: skip


def test_a_job_that_emit_reported_under_another_name_is_not_found_again(github: Repairing) -> None:
    """``emit`` knows the key of the job, and the API its display name."""
    one = github.world.platform.deploy(ended_at=github.clock.now_ms() + 60_000, job="Deploy to production")
    github.clock.advance(ms=HOUR)
    github.reports.take(by_emit("github", replace(one, job="deploy")), source="emit", at=github.clock.now_ms())
    for _ in range(2):
        github.run()
    assert (len(github.events()), github.found) == (1, 0)


def test_the_start_of_a_found_deployment_is_that_of_the_job(any_repair: Repairing) -> None:
    [one] = outage(any_repair, 1)
    any_repair.run()
    [row] = any_repair.outbox.all_deployments()
    assert (row.content.started_at, row.content.ended_at) == (one.started_at, one.ended_at)


def test_found_deployments_are_listed_among_the_deliveries(any_repair: Repairing) -> None:
    outage(any_repair, 1)
    any_repair.run()
    [row] = any_repair.outbox.all_deployments()
    assert (EVENT, row.deployment_id) in [
        (each.event, each.deployment_id) for each in any_repair.outbox.hook_deliveries(10)
    ]


def test_history_from_before_the_first_look_is_never_taken(any_repair: Repairing) -> None:
    any_repair.world.platform.deploy(ended_at=any_repair.clock.now_ms() - 2 * HOUR)
    any_repair.run()
    assert any_repair.events() == []


def test_a_rate_limit_ends_the_look_and_the_next_one_continues(any_repair: Repairing) -> None:
    deployed = outage(any_repair, 40)
    any_repair.world.platform.limit(1 if any_repair.world.platform.kind == "gitlab" else 30, seconds=1_800)
    any_repair.run(after_s=0)
    assert "too many requests" in any_repair.errors[0]
    assert any_repair.run(after_s=600) == 0, "it waits as long as the platform asks"
    any_repair.world.platform.limit(None)
    any_repair.run(after_s=1_300)
    any_repair.run()
    assert any_repair.events() == expected(any_repair, deployed)
    assert any_repair.errors == []


def test_a_platform_that_is_away_is_asked_less_and_less(any_repair: Repairing) -> None:
    deployed = outage(any_repair, 5)
    any_repair.world.platform.hook = lambda *_: json_answer({"message": "down"}, 502)
    any_repair.run()
    assert "HTTP 502" in any_repair.errors[0]
    asked = [any_repair.run(after_s=FIRST_RETRY_S) for _ in range(60)]
    assert 4 <= sum(asked) / len(any_repair.repair.subjects) <= 8
    any_repair.world.platform.hook = None
    any_repair.run()
    assert (any_repair.events(), any_repair.errors) == (expected(any_repair, deployed), [])


@on_both_engines
def test_a_crash_between_two_deployments_loses_and_doubles_nothing(any_repair: Repairing, tmp_path: Path) -> None:
    """Each time, the agent dies after a few commits: another connection, from what is on the disk."""
    deployed = outage(any_repair, 60)
    for _ in range(30):
        commits = iter(range(5))
        ended = False

        async def dying(call: Callable[..., Any], *arguments: Any, commits: Iterator[int] = commits) -> Any:
            if next(commits, None) is None:
                raise KilledError
            return call(*arguments)

        any_repair.restarted()
        any_repair.repair._store._off_loop = dying  # type: ignore[attr-defined]
        try:
            any_repair.run()
            ended = True
        except KilledError:
            pass
        if ended:
            break
    any_repair.restarted()
    any_repair.run()
    assert any_repair.events() == expected(any_repair, deployed)


class KilledError(Exception):
    """The process ends here."""


def test_a_failing_project_takes_only_itself(github: Repairing) -> None:
    github.restarted(replace(github.world.hook, repair=("acme/gone", "acme/shop")))
    deployed = outage(github, 3)
    github.run()
    assert github.events() == expected(github, deployed)
    assert len(github.errors) == 1 and "acme/gone" in github.errors[0]


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"id": 1}', b'[{"id": {}}]', b"[[]]", b'"x"', b"\xff\xfe", b""])
def test_a_hostile_answer_is_an_error_of_its_project_and_over_when_it_is_over(
    any_repair: Repairing, body: bytes
) -> None:
    deployed = outage(any_repair, 3)
    any_repair.world.platform.hook = lambda *_: Response(body, media_type="application/json")
    any_repair.run()
    assert len(any_repair.errors) >= 1
    any_repair.world.platform.hook = None
    any_repair.run()
    assert (any_repair.events(), any_repair.errors) == (expected(any_repair, deployed), [])


def test_one_deployment_that_cannot_be_read_does_not_stop_the_others(github: Repairing) -> None:
    deployed = outage(github, 5)
    broken = deployed[2]

    def answer(path: str, _: Mapping[str, str]) -> Response | None:
        return json_answer([{"id": "x", "state": 7}]) if path.endswith(f"/{broken.number}/statuses") else None

    github.world.platform.hook = answer
    github.run()
    assert github.events() == expected(github, [each for each in deployed if each is not broken])
    assert github.errors == []


def test_metrics_show_the_last_looks_their_failures_and_what_they_found(github: Repairing) -> None:
    def values() -> dict[str, float]:
        life: Any = SimpleNamespace(parts=SimpleNamespace(gaps=github.repair))
        samples = [each for metric in _gap_repair(life, stored.read(github.outbox)) for each in metric.samples]
        return {each.name.removeprefix("hivel_agent_gap_repair_") + each.labels.get("result", ""): each.value
                for each in samples}  # fmt: skip

    outage(github, 3)
    github.run()
    there = {"looks_totalok": 2, "looks_totalerror": 0, "found_total": 3}
    assert values() == there | {"last_success_timestamp_seconds": github.clock.now_ms() / 1000}
    before = values()["last_success_timestamp_seconds"]
    github.world.platform.hook = lambda *_: json_answer({}, 502)
    github.run()
    assert values() == there | {"looks_totalerror": 1, "last_success_timestamp_seconds": before}
    github.restarted(replace(github.world.hook, repair=("acme/shop", "acme/new")))
    assert values()["last_success_timestamp_seconds"] == 0


def test_a_wrong_token_is_shown_and_a_new_one_is_read_from_its_file(tmp_path: Path, engine: Engine) -> None:
    from agent.config.credentials import Token

    file = tmp_path / "api.token"
    file.write_text("sandbox-token\n")
    file.chmod(0o600)
    with repairing("github", tmp_path, engine, api_token=Token.from_file(file)) as one:
        deployed = outage(one, 2)
        one.world.platform.token = "renewed-token"
        one.run()
        assert "the token is wrong or has expired" in one.errors[0]
        file.write_text("renewed-token\n")
        one.run()
        assert (one.events(), one.errors) == (expected(one, deployed), [])


def test_after_an_outage_of_the_agent_it_looks_soon_but_not_all_the_time(github: Repairing) -> None:
    github.restarted()
    assert github.run(after_s=SOON_S - 1) == 0
    assert github.run(after_s=1) > 0
    github.repair.soon("github")
    assert github.run(after_s=SOON_S) == 0
    assert github.run(after_s=LEAST_S - SOON_S) > 0
    github.repair.soon("another")
    assert github.run(after_s=LEAST_S) == 0
    assert github.run(after_s=INTERVAL_S - LEAST_S) > 0


def test_a_long_stop_of_the_agent_is_limited_to_thirty_days(any_repair: Repairing) -> None:
    now = any_repair.clock.now_ms()
    old = any_repair.world.platform.deploy(ended_at=now + HOUR)
    new = any_repair.world.platform.deploy(ended_at=now + 20 * 24 * HOUR)
    any_repair.clock.advance(ms=40 * 24 * HOUR)
    any_repair.restarted()
    any_repair.run()
    assert any_repair.events() == expected(any_repair, [new])
    assert old.commit not in str(any_repair.events())


def test_an_outbox_that_cannot_be_written_keeps_the_position(any_repair: Repairing) -> None:
    from agent.outbox.values import OutboxError

    deployed = outage(any_repair, 3)
    any_repair.outbox._connection.execute("PRAGMA query_only = ON")
    with pytest.raises((OutboxError, sqlite3.Error)):
        any_repair.run()
    any_repair.outbox._connection.execute("PRAGMA query_only = OFF")
    any_repair.restarted()
    any_repair.run()
    assert any_repair.events() == expected(any_repair, deployed)


def test_a_person_can_ask_for_what_is_missing(tmp_path: Path) -> None:
    """By ``webhook repair``, without a daemon: first what is missing, then it is stored, then nothing is missing."""
    with world("github", Clock()) as found:
        hook = (
            f'[[webhook]]\nname = "github"\nplatform = "github"\nsecret_file = "s"\napi_url = "{found.server.url}"\n'
            'api_token_file = "t"\nrepair = ["acme/shop"]\n'
        )
        agent = Agent.configured(tmp_path, jenkins="http://127.0.0.1:1", hivel="http://127.0.0.1:1", extra=hook)
        for name in ("s", "t"):
            (tmp_path / name).write_text("sandbox-token\n")
            (tmp_path / name).chmod(0o600)
        SqliteOutbox(agent.outbox, Clock()).close()
        one = found.platform.deploy()
        said = [agent.run("webhook", "repair", "github", *flags) for flags in FLAGS]
        run = f"github_actions:acme/shop#{one.run}/deploy"
        assert [each.returncode for each in said] == [0, 0, 0, 0], said
        assert [each.stdout.splitlines() for each in said] == [
            ["0 missing, 0 already known"],  # the first look only stores the time
            [f"missing  {run}", "1 missing, 0 already known"],
            [f"stored  {run}:production", "1 missing, 0 already known"],
            ["0 missing, 1 already known"],
        ]
        found.platform.token = "another"
        refused = agent.run("webhook", "repair", "github")
        assert (refused.returncode, "the token is wrong" in refused.stdout.replace("\n", " ")) == (1, True)
        assert "gaps      github acme/shop (deployments): never read" in agent.run("status").stdout


FLAGS = ((), ("--since", "6h", "--dry-run"), ("--since", "6h"), ("--since", "6h"))
