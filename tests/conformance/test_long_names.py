"""Names longer than an entry of an index, of characters that do not compress: each engine stores and finds them."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from agent.model.deployment import State
from agent.model.endings import Ended, Ending
from agent.model.keys import Project, Run
from agent.outbox.values import (
    Change,
    Deployed,
    Filter,
    JobCursor,
    JobError,
    Keep,
    OpenBuild,
    Page,
    Progress,
    Renamed,
    WantedBuild,
)
from tests.conformance.things import claim_of, clean_up, content, deployment, finished, inserted, reported, run, success
from tests.integration.support import NOON

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.outbox.interface import Outbox
    from tests.integration.support import FakeClock


def name(number: int) -> str:
    """About 6,000 bytes. All begin alike, so that their ends matter."""
    drawn = random.Random(number)
    return "漢" * 300 + "".join(chr(drawn.randrange(0x4E00, 0x9FA5)) for _ in range(1_700))


ONE, TWO, THREE = map(name, range(3))


def ids(found: list[Deployed]) -> list[int]:
    return [each.number for each in found]


def test_facts_and_deployments_of_projects_with_long_names(outbox: Outbox) -> None:
    for job in (ONE, TWO):
        of = run(7, job)
        outbox.store(
            [Change(facts=(finished(of), reported(of)), inserted=(deployment(7, of=of, deployment_id=job[-9:]),))]
        )
    first, second = (outbox.load([run(7, job)])[run(7, job)] for job in (ONE, TWO))
    assert [len(state.facts) for state in (first, second)] == [2, 2]
    assert [[row.run.project.name for row in state.deployments] for state in (first, second)] == [[ONE], [TWO]]
    assert [each.run.project.name for each in outbox.query(Filter(job=TWO), Page())] == [TWO]
    for part in (ONE[:10], ONE[:1_000]):
        assert ONE in [each.run.project.name for each in outbox.query(Filter(job_prefix=part), Page())]
        assert ONE in [each.run.project.name for each in outbox.search(Filter(text=part), Page()).deployments]
    assert len(outbox.query(Filter(job_prefix="漢" * 300), Page())) == 2
    assert outbox.query(Filter(job_prefix=f"{ONE}/"), Page()) == []
    assert outbox.was_reported(run(7, ONE), NOON) and not outbox.was_reported(run(7, THREE), NOON)


def test_runs_of_a_report_with_long_texts(outbox: Outbox) -> None:
    """The intake accepts such a report from anyone with a token. It must not stop the reports after it."""
    of, other = (Run(Project("gitlab_ci", name(3), name(4)), number, 1) for number in (ONE, TWO))
    outbox.store([Change(facts=(reported(of),), inserted=(deployment(of=of, deployment_id="a"),))])
    outbox.store([Change(facts=(reported(other),), inserted=(deployment(of=other, deployment_id="b"),))])
    for each in (of, other):
        state = outbox.load([each])[each]
        assert ([fact.run for fact in state.facts], [row.run for row in state.deployments]) == ([each], [each])
    assert len(outbox.query(Filter(project=of.project), Page())) == 2


def test_what_is_known_of_jobs_with_long_names(outbox: Outbox) -> None:
    jobs, open_build = (ONE, TWO), OpenBuild(4, seen=True, first_seen_at=NOON, started_at=NOON)
    for _ in range(2):  # the second time replaces the first
        outbox.save_progress(
            Progress(
                "main",
                cursors=tuple(JobCursor(job, 5, NOON, 4, NOON) for job in jobs),
                open_builds=dict.fromkeys(jobs, (open_build,)),
                missed=dict.fromkeys(jobs, (1, 3)),
                errors={job: JobError(job, "HTTP 500", NOON, NOON) for job in jobs},
                ended={job: (Ended(1, 3, Ending.READ, NOON),) for job in jobs},
            )
        )
        outbox.want_builds("main", [(job, 9) for job in jobs])
    assert outbox.job("main", TWO) == JobCursor(TWO, 5, NOON, 4, NOON)
    assert outbox.open_builds("main") == {job: [open_build] for job in sorted(jobs)}
    assert [each.builds for each in outbox.missed()] == [2, 2]
    assert set(outbox.job_errors("main")) == set(jobs)
    assert outbox.endings("main", ONE) == [Ended(1, 3, Ending.READ, NOON)]
    assert len(outbox.load([run(4, ONE)])[run(4, ONE)].facts) == 1
    outbox.save_progress(
        Progress(
            "main",
            renamed=(Renamed(JobCursor(ONE, 5, NOON, 4, NOON), THREE),),
            no_longer_wanted=(WantedBuild(TWO, 9, NOON),),
            errors={TWO: None},
            open_builds={TWO: ()},
            begun=frozenset([TWO]),
        )
    )
    assert outbox.former_names(Project("jenkins", "main", THREE)) == [Project("jenkins", "main", ONE)]
    assert set(outbox.jobs("main")) == {TWO}
    assert [each.full_name for each in outbox.wanted_builds("main")] == [ONE]
    assert (outbox.job_errors(), outbox.open_builds("main")) == ({}, {})
    assert outbox.endings("main", THREE) == [Ended(1, 3, Ending.READ, NOON)]
    assert outbox.endings("main", ONE) == outbox.endings("main", TWO) == []


def test_a_backfill_of_jobs_with_long_names(outbox: Outbox) -> None:
    outbox.begin_backfill("since 7d", NOON, NOON)
    for job in (ONE, TWO, ONE):
        outbox.note_backfilled_job("since 7d", "main", job)
    assert outbox.backfilled_jobs("since 7d", "main") == {ONE, TWO}


def test_environments_and_repositories_with_long_names(outbox: Outbox, clock: FakeClock) -> None:
    places = [(ONE, THREE), (TWO, THREE), ("production", ONE), (None, TWO)]
    new = [
        deployment(number, content=content(environment, repo_url=repo_url))
        for number, (environment, repo_url) in enumerate(places, 1)
    ]
    stored = inserted(outbox, *new)
    assert outbox.names() == (sorted([ONE, TWO, "production"]), sorted([ONE, TWO, THREE]))
    for each, (environment, repo_url) in zip(stored, places, strict=True):
        which = Filter(environment=environment, repo_url=repo_url)
        assert [row.number for row in outbox.search(which, Page()).deployments] == [each.number]
    assert len(outbox.search(Filter(repo_url=THREE), Page()).deployments) == 2
    outbox.settle([success(claim_of(outbox, each.number), at=NOON) for each in stored])
    keep = Keep(10 * NOON, 10 * NOON, 10 * NOON)
    clock.advance(ms=21 * 86_400_000)
    clean_up(outbox, keep)

    def of_weeks(**place: str) -> Iterator[int]:
        for each in outbox.deployed_by_week(0, 2 * NOON, **place):
            yield 1 if isinstance(each, Deployed) else sum(1 for _ in each.sums.ends)

    assert len(list(outbox.deployed(0, 2 * NOON, environment=ONE))) == 1
    assert len(list(outbox.deployed(0, 2 * NOON, repo_url=THREE))) == 2
    assert len(list(outbox.deployed_by_week(0, 2 * NOON))) == 4
    assert len(list(outbox.deployed_by_week(0, 2 * NOON, environment=TWO))) == 1
    assert all(each.state is State.DELIVERED for each in outbox.query(Filter(), Page()))
