"""Facts, deployments and settlements as the tests need them, and strategies that make any of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st
from msgspec.structs import replace

from agent.model.build import Build, Checkout, Stage
from agent.model.deployment import Content, Deployment, Name, Scope, State
from agent.model.fact import Fact, Kind, Report, final, report
from agent.model.ids import run_id
from agent.model.keys import Project, Run, jenkins_run, run_of_id
from agent.model.status import Status
from agent.outbox.values import Change, Settlement
from tests.integration.support import NOON

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.outbox.interface import Outbox
    from agent.outbox.values import Claimed, Keep

DAY = 86_400_000
JOB = "deploy/shop"


def run(number: int = 1, job: str = JOB, controller: str = "main") -> Run:
    return jenkins_run(controller, job, number)


def build_of(of: Run, started_at: int = NOON) -> Build:
    return Build(
        controller=of.project.scope,
        job=of.project.name,
        number=int(of.number),
        result="SUCCESS",
        started_at=started_at,
        ended_at=started_at + 1_000,
        parameters={"ENVIRONMENT": "production"},
        checkouts=(Checkout(("https://github.example.test/acme/shop",), ("main",), "ab" * 20),),
        stages=(Stage("Deploy", "SUCCESS"),),
    )


def finished(of: Run, *, at: int = NOON, started_at: int = NOON) -> Fact:
    return final(of, build_of(of, started_at), at=at)


def reported(of: Run, *, at: int = NOON, environment: str = "production") -> Fact:
    said = Report(provider="jenkins", status="SUCCESS", environment=environment)
    return report(of, said, source="emit", at=at)


def content(environment: str = "production", **changes: Any) -> Content:
    fields: dict[str, Any] = {"status": Status.SUCCESS, "started_at": NOON, "ended_at": NOON + 1_000}
    return Content(**(fields | {"environment": environment, "branch": "main"} | changes))


def deployment(number: int = 1, state: State = State.PENDING, *, of: Run | None = None, **changes: Any) -> Deployment:
    """Of the build of this number, with the id of the whole build unless it is held."""
    of = of or run(number)
    fields: dict[str, Any] = {
        "run": of,
        "build_started_at": NOON,
        "build_ended_at": NOON + 1_000,
        "known": True,
        "names": (Name(Scope.WHOLE),),
        "anchor": 7,
        "deployment_id": None if state is State.HELD else run_id(of),
        "state": state,
        "content": content(build_number=of.number),
        "reason": "no branch" if state is State.FAILED else None,
    }
    return Deployment(**(fields | changes))


def inserted(outbox: Outbox, *deployments: Deployment) -> list[Deployment]:
    """Store them; returns them as they are stored."""
    refused = outbox.store([Change(inserted=deployments)])
    assert not refused
    return list(outbox.all_deployments())[-len(deployments) :]


def in_state(outbox: Outbox, state: State, number: int = 1, **changes: Any) -> Deployment:
    """A deployment that came into this state as they do."""
    if state in (State.DELIVERED, State.DISCARDED):
        [new] = inserted(outbox, deployment(number, **changes))
        if state is State.DELIVERED:
            outbox.settle([success(claim_of(outbox, new.number), at=outbox.clock.now_ms())])
        else:
            assert outbox.discard([new], "let go") == [True]
    else:
        [new] = inserted(outbox, deployment(number, state, **changes))
    return stored(outbox, new.number)


def stored(outbox: Outbox, number: int) -> Deployment:
    found = outbox.find(str(number))
    assert found is not None
    return found


def claim_of(outbox: Outbox, number: int) -> Claimed:
    return next(claimed for claimed in outbox.claim(1_000) if claimed.number == number)


def settlement(claimed: Claimed, state: State, **changes: Any) -> Settlement:
    fields: dict[str, Any] = {
        "claimed": claimed,
        "state": state,
        "counts_as_attempt": True,
        "at": NOON,
        "duration_ms": 12,
        "http_status": 200,
        "verdict": state.value,
        "answer": "…",
    }
    return Settlement(**(fields | changes))


def success(claimed: Claimed, **changes: Any) -> Settlement:
    return settlement(claimed, State.DELIVERED, **changes)


def retry(claimed: Claimed, **changes: Any) -> Settlement:
    fields: dict[str, Any] = {"http_status": 503, "verdict": "retry", "reason": "HTTP 503"}
    return settlement(claimed, State.PENDING, **(fields | changes))


def refusal(claimed: Claimed, **changes: Any) -> Settlement:
    fields: dict[str, Any] = {"http_status": 400, "verdict": "failed", "reason": "HTTP 400"}
    return settlement(claimed, State.FAILED, **(fields | changes))


def rewritten(outbox: Outbox, before: Deployment, **changes: Any) -> Deployment:
    """Store it with these changes and the next revision; returns it as it is stored then."""
    fields = {"revision": before.revision + 1} | changes
    assert not outbox.store([Change(rewritten=(replace(before, **fields),))])
    return stored(outbox, before.number)


def clean_up(outbox: Outbox, keep: Keep) -> int:
    """Prune until there is nothing more; returns how many steps it took."""
    steps = 1
    while outbox.prune(keep):
        steps += 1
        assert steps < 1_000, "it never ends"
    return steps


# ---- any of them

TIMES = st.integers(0, 2**53)
WORDS = st.integers(0, 2**63 - 1)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
PROJECTS = st.one_of(
    st.builds(
        Project, st.just("jenkins"), st.sampled_from(["main", "host:8080"]), st.sampled_from(["a", "a/b", "ä#1"])
    ),
    st.builds(Project, st.just("github_actions"), st.just("acme"), st.sampled_from(["acme/shop", "acme/web"])),
)
RUNS = st.one_of(
    st.builds(Run, PROJECTS, st.integers(1, 5).map(str), st.integers(1, 2)), st.sampled_from("xyz").map(run_of_id)
)
_BUILDS = st.builds(
    Build,
    url=TEXTS,
    result=st.none() | TEXTS,
    started_at=TIMES,
    ended_at=TIMES,
    branch_job=st.booleans(),
    parameters=st.dictionaries(TEXTS, TEXTS, max_size=2),
    stages_missing=st.none() | TEXTS,
    change_messages=st.lists(TEXTS, max_size=2).map(tuple),
)
_REPORTS = st.builds(
    Report,
    provider=TEXTS,
    status=st.none() | TEXTS,
    stage=st.none() | TEXTS,
    pr_numbers=st.lists(st.integers(0, 10**6), max_size=2).map(tuple),
    started_at=st.none() | TIMES,
)


@st.composite
def facts(draw: st.DrawFn, runs: st.SearchStrategy[Run] = RUNS) -> Fact:
    """Any fact, as the doors make them."""
    of, kind = draw(runs), draw(st.sampled_from(Kind))
    body: Build | Report | str | None = None
    if kind is Kind.FINAL:
        body = draw(_BUILDS)
        if of.project.provider == "jenkins":
            body = replace(body, controller=of.project.scope, job=of.project.name, number=int(of.number))
    elif kind is Kind.REPORT:
        body = draw(_REPORTS)
    elif kind is Kind.UNREADABLE:
        body = draw(TEXTS)
    return Fact(
        run=of,
        source=draw(st.sampled_from(["poller", "emit", "intake"])),
        kind=kind,
        received_at=draw(TIMES),
        word=draw(WORDS),
        started_at=draw(st.none() | TIMES),
        principal=draw(TEXTS),
        body=body,
    )


NAMES = st.builds(Name, st.sampled_from(Scope), TEXTS, TEXTS, TEXTS, st.just(0) | TIMES, st.integers(0, 3))
CONTENTS = st.builds(
    Content,
    status=st.sampled_from(Status),
    started_at=TIMES,
    ended_at=TIMES,
    environment=st.none() | TEXTS,
    repo_url=st.none() | TEXTS,
    branch=st.none() | TEXTS,
    commit_hash=st.none() | TEXTS,
    first_commit_at=st.none() | TIMES,
    build_number=st.sampled_from([None, "1", "2", "x"]),
    pr_number=st.none() | TEXTS,
    pr_numbers=st.lists(st.integers(0, 10**6), max_size=2).map(tuple),
    image=st.none() | TEXTS,
    logs_url=st.none() | TEXTS,
    problem=st.none() | TEXTS,
)


@st.composite
def deployments(draw: st.DrawFn, runs: st.SearchStrategy[Run] = RUNS) -> Deployment:
    """Any deployment that nothing has to be filled in of; its id is its anchor's."""
    state, said, anchor = draw(st.sampled_from(State)), draw(CONTENTS), draw(WORDS)
    return Deployment(
        run=draw(runs),
        build_started_at=draw(st.just(said.started_at) | TIMES),
        build_ended_at=draw(st.just(said.ended_at) | TIMES),
        known=draw(st.booleans()),
        names=draw(st.lists(NAMES, min_size=1, max_size=3).map(tuple)),
        anchor=anchor,
        deployment_id=None if state is State.HELD else f"id-{anchor}",
        state=state,
        revision=draw(st.integers(1, 9)),
        sent_revision=draw(st.none() | st.integers(0, 9)),
        content=said,
        created_at=draw(TIMES.filter(bool)),
        held_since=draw(TIMES) if state is State.HELD else None,
        next_attempt_at=draw(TIMES),
        attempts=draw(st.integers(0, 99)),
        settled_at=draw(TIMES) if state in (State.DELIVERED, State.FAILED, State.DISCARDED) else None,
        reason=draw(st.none() | TEXTS),
    )


def distinct(these: Sequence[Deployment]) -> list[Deployment]:
    """Without those whose id is another's."""
    return list({each.anchor: each for each in these}.values())
