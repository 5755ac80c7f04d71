"""Deployments for tests: what a rule makes of builds of one job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from agent.model.deployment import Content, Deployment, Name, Scope, State
from agent.model.fact import word_of
from agent.model.ids import build_deployment_id
from agent.model.keys import jenkins_run
from agent.model.status import Status
from agent.outbox.values import Change, Filter, Page

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agent.outbox.interface import Outbox

NOON = 1_795_435_200_000  # 2026-11-23T12:00:00Z
JOB = "deploy/shop"


def content(number: int, *, started_at: int = NOON, **changes: Any) -> Content:
    """What Hivel gets of a build."""
    plain = Content(
        status=Status.SUCCESS,
        started_at=started_at,
        ended_at=started_at + 1_000,
        repo_url="https://github.example.test/acme/shop",
        environment="production",
        branch="main",
        build_number=str(number),
    )
    return msgspec.structs.replace(plain, **changes)


def deployment(number: int, *, now: int = NOON, started_at: int = NOON, **changes: Any) -> Deployment:
    """What ``plan`` makes of a finished build; ``changes`` are those of its content."""
    said = content(number, started_at=started_at, **changes)
    return Deployment(
        run=jenkins_run("main", JOB, number),
        build_started_at=started_at,
        build_ended_at=said.ended_at,
        known=True,
        names=(Name(Scope.RULE),),
        anchor=word_of("final", number, started_at),
        deployment_id=build_deployment_id("main", JOB, number),
        state=State.PENDING if said.problem is None else State.FAILED,
        content=said,
        created_at=now,
        next_attempt_at=now,
        settled_at=None if said.problem is None else now,
        reason=said.problem,
    )


def enqueue(outbox: Outbox, numbers: Iterable[int], **changes: Any) -> None:
    """Store a deployment of each of these builds."""
    now = outbox.clock.now_ms()
    refused = outbox.store([Change(inserted=(deployment(number, now=now, **changes),)) for number in numbers])
    assert not refused, f"there already: {refused}"


def rewrite(outbox: Outbox, number: int, **changes: Any) -> None:
    """A fact changed what a deployment says, as long as Hivel does not have it."""
    row = outbox.find(build_deployment_id("main", JOB, number))
    assert row is not None
    fresh = msgspec.structs.replace(
        row,
        content=msgspec.structs.replace(row.content, **changes),
        revision=row.revision + 1,
        state=State.PENDING,
        reason=None,
        settled_at=None,
    )
    outbox.store([Change(rewritten=(fresh,))])


def rows(outbox: Outbox, *states: State) -> list[Deployment]:
    """All deployments, or those in these states, the newest first."""
    return outbox.query(Filter(states), Page(100_000))


def states(outbox: Outbox) -> dict[str, int]:
    """How many deployments are in each state that there are any in."""
    counts = outbox.counts()
    return {state.value: n for state in State if (n := getattr(counts, state.value))}
