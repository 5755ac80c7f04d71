"""What the pages ask: pages forwards and back, capped counts, failed deployments by cause, names for menus, hours."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.model.deployment import State
from agent.model.keys import run_of_id
from agent.model.status import Status
from agent.outbox.values import Counted, FailedGroup, Filter, Hour, Keep, Page, Recent
from tests.conformance.things import (
    DAY,
    claim_of,
    clean_up,
    content,
    deployment,
    in_state,
    inserted,
    refusal,
    retry,
    rewritten,
    run,
    stored,
    success,
)
from tests.integration.support import NOON

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.outbox.interface import Outbox
    from tests.engines import Engine
    from tests.integration.support import FakeClock

HOUR = 3_600_000
SHOP, API = "https://git.example.test/acme/shop", "https://git.example.test/acme/api"


def walked(outbox: Outbox, which: Filter, limit: int = 2, *, back: bool = False) -> list[list[int]]:
    """The numbers of all pages from the newest to the oldest, or from the oldest back to the newest."""
    page: Page | None = Page(limit, after=0) if back else Page(limit)
    pages = []
    while page is not None:
        found = outbox.search(which, page)
        pages.append([each.number for each in found.deployments])
        assert len(pages[-1]) <= limit
        on = found.newer if back else found.older
        page = None if on is None else Page(limit, after=on) if back else Page(limit, before=on)
        assert len(pages) < 1_000
    return pages


def counted(outbox: Outbox, which: Filter, to: int) -> Counted:
    """The count, which is the same on all pages."""
    first = outbox.search(which, Page(1), count_to=to)
    on = [Page(2, before=first.older), Page(1, after=0), Page(3, before=5, after=1)]
    assert {outbox.search(which, page, count_to=to).count for page in on} == {first.count}
    return first.count


def numbers(outbox: Outbox, **conditions: Any) -> list[int]:
    which = Filter(**conditions)
    forwards = [number for page in walked(outbox, which) for number in page]
    assert [number for page in walked(outbox, which, back=True) for number in page[::-1]] == forwards[::-1]
    assert [each.number for each in outbox.query(which, Page(999))] == forwards
    assert counted(outbox, which, 999) == Counted(len(forwards))
    return forwards


# ---- filters


@pytest.fixture
def several(outbox: Outbox) -> Outbox:
    said = [
        (run(1), State.PENDING, content("production", repo_url=SHOP, ended_at=NOON)),
        (run(2), State.FAILED, content("staging", status=Status.FAILED, ended_at=NOON + 1)),
        (run(1, "deploy/shop-2"), State.PENDING, content("production", repo_url=API, ended_at=NOON + 2)),
        (run(4, controller="other"), State.HELD, content("production", repo_url=SHOP, ended_at=NOON + 3)),
        (run_of_id("deploy/given"), State.FAILED, content("staging", repo_url=SHOP, ended_at=NOON + 4)),
        (run(6, "Deploy/shop"), State.DISCARDED, content("production", status=Status.FAILED, ended_at=NOON + 5)),
    ]
    for n, (of, state, body) in enumerate(said):
        reason = f"HTTP 400: unknown project {n}" if state is State.FAILED else None
        inserted(outbox, deployment(of=of, state=state, content=body, reason=reason))
    return outbox


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({}, [6, 5, 4, 3, 2, 1]),
        ({"job": "deploy/shop"}, [4, 2, 1]),
        ({"job": "deploy/shop", "scope": "main"}, [2, 1]),
        ({"job": "deploy/sho"}, []),
        ({"job_prefix": "deploy/shop"}, [4, 3, 2, 1]),
        ({"job_prefix": "Deploy"}, [6]),
        ({"job_prefix": "eploy"}, []),
        ({"job_prefix": "deploy/_hop"}, []),
        ({"text": "main:deploy/shop#"}, [2, 1]),
        ({"text": "deploy/"}, [5, 4, 3, 2, 1]),
        ({"text": "deploy/given"}, [5]),
        ({"text": "%"}, []),
        ({"text": "deploy/", "environment": "production", "states": (State.PENDING,)}, [3, 1]),
        ({"cause": "HTTP 400: unknown project …"}, [5, 2]),
        ({"cause": "HTTP 400: unknown project …", "status": "failed"}, [2]),
        ({"cause": "HTTP 400: unknown project 1"}, []),
        ({"cause": ""}, [6, 4, 3, 1]),
        ({"environment": "production"}, [6, 4, 3, 1]),
        ({"environment": "production", "repo_url": SHOP}, [4, 1]),
        ({"repo_url": SHOP}, [5, 4, 1]),
        ({"repo_url": SHOP, "since": NOON + 1, "until": NOON + 4}, [4]),
        ({"since": NOON + 2}, [6, 5, 4, 3]),
        ({"until": NOON + 2}, [2, 1]),
        ({"states": (State.FAILED, State.HELD)}, [5, 4, 2]),
        ({"states": (State.FAILED, State.HELD), "status": "failed", "until": NOON + 2}, [2]),
        ({"states": (State.PENDING,), "scope": "other"}, []),
    ],
    ids=str,
)
def test_conditions_add_up_on_every_way_through_the_pages(
    several: Outbox, conditions: dict[str, Any], expected: list[int]
) -> None:
    assert numbers(several, **conditions) == expected


CHOICES = st.fixed_dictionaries(
    {},
    optional={
        "states": st.lists(st.sampled_from(State), max_size=3).map(tuple),
        "since": st.integers(NOON, NOON + 9),
        "until": st.integers(NOON, NOON + 9),
        "environment": st.sampled_from(["production", "staging", "none"]),
        "repo_url": st.sampled_from([SHOP, API, "none"]),
        "status": st.sampled_from([*Status]),
        "scope": st.sampled_from(["main", "other", "none"]),
        "job": st.sampled_from(["deploy/shop", "deploy/api", "none"]),
        "job_prefix": st.sampled_from(["deploy/", "deploy/a", "none"]),
        "text": st.sampled_from(["main:deploy/shop#1", "deploy/a", "main:", "none"]),
        "cause": st.sampled_from(["HTTP 400", "HTTP …"]),
    },
)
ROWS = st.lists(
    st.tuples(
        st.sampled_from(State),
        st.sampled_from(["deploy/shop", "deploy/api", "deploy/shop-2"]),
        st.sampled_from(["main", "other"]),
        st.sampled_from(["production", "staging", None]),
        st.sampled_from([SHOP, API, None]),
        st.sampled_from([Status.SUCCESS, Status.FAILED]),
        st.integers(NOON, NOON + 9),
    ),
    max_size=12,
)


@given(rows=ROWS, choices=st.lists(CHOICES, max_size=6))
def test_any_filter_selects_what_its_conditions_say(
    new_engine: Callable[[], Engine], rows: list[Any], choices: list[dict[str, Any]]
) -> None:
    with closing(new_engine().open()) as outbox:
        for n, (state, job, controller, environment, repo_url, status, ended_at) in enumerate(rows, 1):
            said = content(environment, repo_url=repo_url, status=status, ended_at=ended_at)
            of, reason = run(n, job, controller=controller), "HTTP 400" if n % 2 else None
            inserted(outbox, deployment(of=of, state=state, content=said, reason=reason))
        there = list(outbox.all_deployments())[::-1]
        for conditions in choices:
            assert numbers(outbox, **conditions) == [each.number for each in there if _matches(each, **conditions)]


def _matches(each: Any, **conditions: Any) -> bool:
    said, project = each.content, each.run.project
    name, text = conditions.get("job_prefix", ""), conditions.get("text", "")
    equal = {"environment": said.environment, "repo_url": said.repo_url, "status": said.status,
             "scope": project.scope, "job": project.name, "cause": each.reason or ""}  # fmt: skip
    return (
        (not conditions.get("states") or each.state in conditions["states"])
        and conditions.get("since", 0) <= said.ended_at < conditions.get("until", said.ended_at + 1)
        and all(conditions[key] == value for key, value in equal.items() if key in conditions)
        and project.name.startswith(name)
        and (project.name.startswith(text) or (each.deployment_id or "").startswith(text))
    )


# ---- pages


def test_pages_go_back_and_forth_and_say_where_they_end(outbox: Outbox) -> None:
    inserted(outbox, *(deployment(n) for n in range(1, 6)))
    first = outbox.search(Filter(), Page(2))
    assert ([each.number for each in first.deployments], first.older, first.newer) == ([5, 4], 4, None)
    second = outbox.search(Filter(), Page(2, before=4))
    assert ([each.number for each in second.deployments], second.older, second.newer) == ([3, 2], 2, 3)
    last = outbox.search(Filter(), Page(2, before=2))
    assert ([each.number for each in last.deployments], last.older, last.newer) == ([1], None, 1)
    back = outbox.search(Filter(), Page(2, after=1))
    assert ([each.number for each in back.deployments], back.older, back.newer) == ([3, 2], 2, 3)
    assert outbox.search(Filter(), Page(2, after=3)).newer is None
    assert outbox.search(Filter(), Page(2, after=5)).deployments == ()


def test_a_page_between_two_numbers_has_only_what_is_between(outbox: Outbox) -> None:
    inserted(outbox, *(deployment(n) for n in range(1, 6)))
    assert [each.number for each in outbox.search(Filter(), Page(9, before=5, after=1)).deployments] == [4, 3, 2]


def test_an_empty_page_leads_back(outbox: Outbox) -> None:
    inserted(outbox, deployment(1), deployment(2))
    nothing = outbox.search(Filter(), Page(2, before=1))
    assert (nothing.deployments, nothing.older, nothing.complete) == ((), None, True)
    assert nothing.newer is not None
    assert len(outbox.search(Filter(), Page(2, after=nothing.newer)).deployments) == 2
    assert outbox.search(Filter(), Page(2)).complete
    assert outbox.search(Filter(environment="nowhere"), Page(2)) == outbox.search(Filter(job="none"), Page(2))


def test_a_page_does_not_move_when_something_new_comes(outbox: Outbox) -> None:
    inserted(outbox, *(deployment(n) for n in range(1, 6)))
    before = outbox.search(Filter(), Page(2, before=4)).deployments
    inserted(outbox, deployment(9))
    assert outbox.search(Filter(), Page(2, before=4)).deployments == before


# ---- counts


def test_a_count_ends_at_its_limit(outbox: Outbox) -> None:
    inserted(outbox, *(deployment(n) for n in range(1, 6)))
    assert counted(outbox, Filter(), 4) == Counted(4, more=True)
    assert counted(outbox, Filter(), 5) == Counted(5)
    assert counted(outbox, Filter(states=(State.PENDING, State.FAILED)), 3) == Counted(3, more=True)
    assert counted(outbox, Filter(states=(State.FAILED,)), 3) == Counted(0)
    assert counted(outbox, Filter(environment="nowhere"), 3) == Counted(0)


# ---- failed deployments by cause


def test_failed_deployments_are_grouped_by_their_cause(outbox: Outbox, clock: FakeClock) -> None:
    for n in (1, 2, 3):
        clock.advance(ms=1)
        inserted(outbox, deployment(n, State.FAILED, reason=f"HTTP 400: unknown project {n}"))
    inserted(outbox, deployment(4, State.FAILED, reason="no branch"), deployment(5, reason="HTTP 503"))
    inserted(outbox, deployment(6, State.FAILED, reason=None), deployment(7, State.DISCARDED, reason="no branch"))
    found = outbox.failed_groups(9)
    project = FailedGroup("HTTP 400: unknown project …", 3, NOON + 1, NOON + 3, 3, "HTTP 400: unknown project 3")
    assert found.groups == [
        project,
        FailedGroup("", 1, NOON + 3, NOON + 3, 6, None),
        FailedGroup("no branch", 1, NOON + 3, NOON + 3, 4, "no branch"),
    ]
    assert (found.failed, found.more) == (5, False)
    for group in found.groups:
        assert counted(outbox, Filter(states=(State.FAILED,), cause=group.cause), 99) == Counted(group.n)
    assert (outbox.failed_groups(1).groups, outbox.failed_groups(1).more) == ([project], True)


def test_without_failed_deployments_there_are_no_groups(outbox: Outbox) -> None:
    inserted(outbox, deployment(1))
    assert outbox.failed_groups(9) == ([], 0, False)


# ---- menus


def test_the_names_for_menus_are_those_of_the_deployments(outbox: Outbox) -> None:
    assert outbox.names() == ([], [])
    places = [("production", SHOP), ("staging", API), ("staging", None), (None, SHOP), (None, None), ("qa", "")]
    for n, (environment, repo_url) in enumerate(places * 2, 1):
        inserted(outbox, deployment(n, content=content(environment, repo_url=repo_url)))
    assert outbox.names() == (["production", "qa", "staging"], [API, SHOP])
    assert outbox.names(2) == (["production", "qa"], [API, SHOP])
    assert outbox.names(1) == (["production"], [API])


def test_repositories_with_many_environments_are_all_in_the_menu(outbox: Outbox) -> None:
    names = [f"https://git.example.test/acme/{n:02}" for n in range(20)]
    inserted(
        outbox,
        *(
            deployment(10 * n + stage, content=content(f"stage-{stage}", repo_url=name))
            for n, name in enumerate(names)
            for stage in range(10)
        ),
    )
    stages = [f"stage-{stage}" for stage in range(10)]
    assert outbox.names(25) == (stages, names)
    assert outbox.names(7) == (stages[:7], names[:7])


def test_a_name_leaves_the_menus_with_its_last_deployment(outbox: Outbox) -> None:
    held, _ = inserted(
        outbox,
        deployment(1, State.HELD, content=content("qa", repo_url=API)),
        deployment(2, content=content("production", repo_url=SHOP)),
    )
    rewritten(outbox, held, content=content("staging", repo_url=SHOP))
    assert outbox.names() == (["production", "staging"], [SHOP])


# ---- the last hours, the last days


def test_an_hour_counts_what_was_delivered_and_what_failed_in_it(outbox: Outbox, clock: FakeClock) -> None:
    assert outbox.per_hour(NOON) == []
    inserted(outbox, *(deployment(n) for n in range(1, 6)))
    for number, outcome, at in ((1, success, 0), (2, refusal, 1), (3, retry, 2), (4, success, HOUR - 1)):
        outbox.settle([outcome(claim_of(outbox, number), at=NOON + at)])
    outbox.settle([success(claim_of(outbox, 5), at=NOON + 3 * HOUR)])
    assert outbox.per_hour(NOON) == [Hour(NOON, 2, 1), Hour(NOON + 3 * HOUR, 1, 0)]
    assert outbox.per_hour(NOON + HOUR - 1) == outbox.per_hour(NOON), "the whole hour counts"
    assert outbox.per_hour(NOON + HOUR) == [Hour(NOON + 3 * HOUR, 1, 0)]


def test_hours_are_kept_as_long_as_deployments(outbox: Outbox, clock: FakeClock) -> None:
    inserted(outbox, deployment(1))
    outbox.settle([success(claim_of(outbox, 1))])
    clock.advance(ms=DAY)
    clean_up(outbox, Keep(DAY, 2 * DAY, 3 * DAY))
    assert outbox.per_hour(0) == [Hour(NOON, 1, 0)]
    clock.advance(ms=DAY + HOUR)
    clean_up(outbox, Keep(DAY, 2 * DAY, 3 * DAY))
    assert outbox.per_hour(0) == []


def test_what_ended_lately_is_counted_by_state(outbox: Outbox) -> None:
    for number, state in enumerate([*State, State.DELIVERED], 1):
        in_state(outbox, state, number, content=content(ended_at=NOON + number))
    assert outbox.recent(NOON) == Recent(delivered=2, pending=1, held=1, failed=1, discarded=1)
    assert outbox.recent(NOON + 3).delivered == sum(
        stored(outbox, number).state is State.DELIVERED for number in range(3, 7)
    )
    assert outbox.recent(NOON + DAY) == Recent(0, 0, 0, 0, 0)
