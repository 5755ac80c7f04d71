"""A job that reports itself, and its platform's webhook, which can have another name for it: in any order."""

from __future__ import annotations

import shutil
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from agent.model.fact import Kind, Report
from agent.outbox.sqlite.engine import SqliteOutbox
from tests.integration.reporting import reports_of, settings_of
from tests.integration.support import FakeClock

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

WEBHOOK = "webhook:github"


@dataclass(frozen=True)
class Said:
    """One report: by whom, and how it names the job."""

    source: str
    job: str
    environment: str = "production"
    run: str = "github_actions:acme/shop#7"
    attempt: str = ""

    @property
    def name(self) -> str:
        return f"{self.run}/{self.job}{self.attempt}"

    def report(self) -> dict[str, str]:
        return {
            "provider": "github_actions", "run": self.name, "status": "success", "environment": self.environment,
            "repo_url": "https://github.com/acme/shop", "branch": "main", "commit_hash": "f" * 40,
        }  # fmt: skip


class World:
    """An outbox that can be closed and opened again at any time, as after a crash."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = FakeClock()
        self.outbox = SqliteOutbox(path, self.clock)

    def take(self, said: Said) -> str:
        self.clock.advance(ms=1_000)
        taken = reports_of(settings_of(self.path), self.outbox).take(
            said.report(), source=said.source, at=self.clock.now_ms()
        )
        return taken.deployment_id

    def crash(self) -> None:
        self.outbox.close()
        self.outbox = SqliteOutbox(self.path, self.clock)

    def names(self) -> list[set[tuple[str, str]]]:
        """For each deployment, who reported it under which names."""
        found = []
        for row in self.outbox.all_deployments():
            bodies = [
                (each.source, each.body)
                for each in self.outbox.facts(row.run)
                if each.kind is Kind.REPORT and isinstance(each.body, Report)
            ]
            found.append(
                {(who, body.named or row.run.number) for who, body in bodies
                 if body.environment == row.content.environment}
            )  # fmt: skip
        return found


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("empty") / "outbox.db"
    SqliteOutbox(path, FakeClock()).close()
    return path


def told(empty: Path, said: Sequence[Said], crashes: Sequence[bool] = ()) -> tuple[World, dict[Said, set[str]]]:
    """A world in which all of this was said, and the ids that each report got."""
    path = empty.with_name("copy.db")
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    shutil.copy(empty, path)
    world, ids = World(path), defaultdict(set)
    for number, each in enumerate(said):
        ids[each].add(world.take(each))
        if number < len(crashes) and crashes[number]:
            world.crash()
    return world, ids


def orders(jobs: list[tuple[str, str]]) -> st.SearchStrategy[list[Said]]:
    """Every job is reported by itself and by the webhook, once or more, in any order. A job: key, display name."""
    said = [Said("intake", key) for key, _ in jobs] + [Said(WEBHOOK, display) for _, display in jobs]
    again = st.lists(st.sampled_from(said), max_size=len(said))
    return again.flatmap(lambda more: st.permutations([*said, *more]))


CRASHES = st.lists(st.booleans(), max_size=8)


@settings(max_examples=60)
@given(said=orders([("deploy", "Deploy to production")]), crashes=CRASHES)
def test_one_job_under_two_names_is_one_deployment_in_any_order(
    empty: Path, said: list[Said], crashes: list[bool]
) -> None:
    world, ids = told(empty, said, crashes)
    assert len(world.names()) == 1
    assert len(set().union(*ids.values())) == 1
    world.outbox.close()


@settings(max_examples=60)
@given(said=orders([("a", "a"), ("b", "b"), ("c", "c")]), crashes=CRASHES)
def test_several_jobs_under_equal_names_are_one_deployment_each(
    empty: Path, said: list[Said], crashes: list[bool]
) -> None:
    world, ids = told(empty, said, crashes)
    assert sorted(world.names(), key=sorted) == [
        {("intake", f"github_actions:acme/shop#7/{job}"), (WEBHOOK, f"github_actions:acme/shop#7/{job}")}
        for job in ("a", "b", "c")
    ]
    assert all(len(each) == 1 for each in ids.values())
    world.outbox.close()


@settings(max_examples=100)
@given(said=orders([("a", "Deploy A"), ("b", "Deploy B"), ("c", "c")]), crashes=CRASHES)
def test_several_jobs_under_other_names_are_never_taken_for_one_and_a_repetition_changes_nothing(
    empty: Path, said: list[Said], crashes: list[bool]
) -> None:
    """Each job that reports itself has its own deployment. What cannot be told apart is kept twice."""
    world, ids = told(empty, said, crashes)
    assert all(sum(source == "intake" for source, _ in names) <= 1 for names in world.names())
    assert 3 <= len(world.names()) <= 6
    assert all(len(each) == 1 for each in ids.values())
    world.outbox.close()


def test_two_candidates_are_kept_apart_with_a_warning(empty: Path) -> None:
    with capture_logs() as logs:
        world, _ = told(empty, [Said("intake", "a"), Said("intake", "b"), Said(WEBHOOK, "Deploy it")])
    assert len(world.names()) == 3
    [warning] = [each for each in logs if each["log_level"] == "warning"]
    assert warning["event"] == "cannot tell whether two reports are about one deployment, both are kept"
    assert sorted(warning["others"]) == ["github_actions:acme/shop#7/a", "github_actions:acme/shop#7/b"]
    world.outbox.close()


@pytest.mark.parametrize(
    "other",
    [
        Said(WEBHOOK, "Deploy it", environment="staging"),
        Said(WEBHOOK, "Deploy it", run="github_actions:acme/shop#70"),
        Said(WEBHOOK, "Deploy it", run="github_actions:acme/other#7"),
        Said(WEBHOOK, "Deploy it", attempt=".2"),
    ],
    ids=["environment", "run", "project", "attempt"],
)
def test_another_environment_run_project_or_attempt_is_another_deployment(empty: Path, other: Said) -> None:
    for said in ([Said("intake", "deploy"), other], [other, Said("intake", "deploy")]):
        world, _ = told(empty, said)
        assert len(world.names()) == 2
        world.outbox.close()


def test_a_stage_of_azure_devops_pairs_with_the_job_that_reports_itself(empty: Path) -> None:
    run = "azure_devops:acme/Web Shop#842"

    def azure(source: str, job: str) -> Said:
        return Said(source, job, run=run)

    for said in (
        [azure("intake", "Production/DeployWeb"), azure("webhook:azure", "Production")],
        [azure("webhook:azure", "Production"), azure("intake", "Production/DeployWeb")],
    ):
        world, ids = told(empty, said)
        assert len(set().union(*ids.values())) == 1
        world.outbox.close()
    world, _ = told(empty, [azure("intake", "Canary/DeployWeb"), azure("webhook:azure", "Production")])
    assert len(world.names()) == 2
    world.outbox.close()


def test_a_job_that_also_deploys_to_another_environment_is_not_reported_twice(empty: Path) -> None:
    said = [
        Said(WEBHOOK, "Deploy it"), Said("intake", "deploy"), Said("intake", "deploy", environment="staging"),
        Said("intake", "deploy"),
    ]  # fmt: skip
    world, ids = told(empty, said)
    assert len(world.names()) == 2
    assert all(len(each) == 1 for each in ids.values())
    world.outbox.close()
