"""The figures of DORA: a second computation, written from the definitions in docs/dora.md, and the edges by hand."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from agent.inspect.dora.figures import LISTED, Collected, Dora, Figures, Group, Week, dora, percentile
from agent.inspect.dora.weeks import Span, name_of, whole_week
from agent.model.status import Status
from agent.model.times import parse_moment
from agent.model.weeks import DAY_MS, WEEK_MS, week_of
from agent.outbox.tally import DeployedWeek, sums_of
from agent.outbox.values import Deployed

if TYPE_CHECKING:
    from collections.abc import Callable

SHOP, API = "https://git.example.test/acme/shop", "https://git.example.test/acme/api"
MINUTE = 60_000
MONDAY = parse_moment("2026-01-05")
SPAN = Span(MONDAY, MONDAY + 3 * WEEK_MS)


def row(at: int, status: Status = Status.SUCCESS, **changes: Any) -> Deployed:
    """A deployment that ended so many minutes after that Monday and took one minute."""
    ended_at = MONDAY + at * MINUTE
    fields = {
        "number": at, "status": status, "environment": "production", "repo_url": SHOP, "commit_hash": None,
        "first_commit_at": None, "started_at": ended_at - MINUTE, "ended_at": ended_at,
    }  # fmt: skip
    return Deployed(**(fields | changes))


def figures(*rows: Deployed, span: Span = SPAN) -> Dora:
    inside = [each for each in rows if span.since <= each.ended_at < span.until]
    return dora(iter(sorted(inside, key=lambda each: (each.ended_at, each.number))), span)


def only(*rows: Deployed, span: Span = SPAN) -> Group:
    [group] = figures(*rows, span=span).groups
    return group


# ---- the second computation: every figure by itself, from lists, with datetime


def moment(ms: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)


def iso_week(ms: int) -> str:
    year, week, _ = moment(ms).isocalendar()
    return f"{year}-W{week:02d}"


def weeks_of(span: Span) -> list[str]:
    days = (span.until - 1) // DAY_MS - span.since // DAY_MS
    names = [iso_week(span.since + n * DAY_MS) for n in range(days + 1)]
    return list(dict.fromkeys([*names, iso_week(span.until - 1)]))


def nearest_rank(values: list[int], percent: float) -> int | None:
    return sorted(values)[math.ceil(percent / 100 * len(values)) - 1] if values else None


def measured(values: list[int], of: int) -> tuple[int, int, int | None, int | None]:
    return len(values), of, nearest_rank(values, 50), nearest_rank(values, 90)


def until_success(failed: Deployed, rows: list[Deployed]) -> int | None:
    ends = [each.ended_at for each in rows if each.status == "success" and each.ended_at >= failed.ended_at]
    return min(ends) - failed.ended_at if ends else None


def is_rollback(at: int, commits: list[str]) -> bool:
    """Whether the ``at``-th successful deployment with a commit deployed again what had been replaced."""
    before = commits[:at]
    firsts = [commit for n, commit in enumerate(before) if commit not in before[:n]]
    return commits[at] in before and commits[at] not in (firsts[-1], before[-1])


def by_definition(some: list[Deployed], rows: list[Deployed]) -> dict[str, Any]:
    """The figures of ``some`` of the ``rows`` of one environment and repository."""
    numbers = {each.number for each in some}
    success, failed = ([each for each in some if each.status == status] for status in ("success", "failed"))
    with_commit = [each for each in rows if each.status == "success" and each.commit_hash]
    commits = [str(each.commit_hash) for each in with_commit]
    waits = [wait for each in failed if (wait := until_success(each, rows)) is not None]
    durations = [each.ended_at - each.started_at for each in success]
    leads = [each.ended_at - each.first_commit_at for each in success if each.first_commit_at is not None]
    both = len(success) + len(failed)
    return {
        "success": len(success),
        "days": len({moment(each.ended_at).date() for each in success}),
        "failed": len(failed),
        "share": round(len(failed) / both, 4) if both else None,
        "canceled": len([each for each in some if each.status == "canceled"]),
        "unknown": len([each for each in some if each.status == "unknown"]),
        "next": measured(waits, len(failed)),
        "duration": measured([each for each in durations if each >= 0], len(success)),
        "lead": measured([each for each in leads if each >= 0], len(success)),
        "rollbacks": sum(is_rollback(n, commits) for n, each in enumerate(with_commit) if each.number in numbers),
        "commits": len([each for each in with_commit if each.number in numbers]),
        "rework": len(
            {each.number for each in success if each.hotfix}
            | {each.number for n, each in enumerate(with_commit) if is_rollback(n, commits)} & numbers
        ),
    }


def as_computed(of: Figures) -> dict[str, Any]:
    times = {"next": of.time_to_next_success, "duration": of.duration, "lead": of.lead_time}
    return {
        "success": of.successful.count,
        "days": of.successful.days_with,
        "failed": of.failed.count,
        "share": of.failed.share,
        "canceled": of.canceled.count,
        "unknown": of.unknown.count,
        **{name: (each.count, each.of, each.median_ms, each.p90_ms) for name, each in times.items()},
        "rollbacks": of.rollbacks.count,
        "commits": of.rollbacks.of,
        "rework": of.rework.count,
    }


# Few values, so that ends coincide, commits return, and days and weeks have several deployments.
ENDS = st.integers(0, 50).map(lambda n: n * DAY_MS // 2) | st.integers(0, 24 * DAY_MS)
BASES = st.sampled_from([parse_moment("2020-12-20"), parse_moment("2026-12-24"), MONDAY, 0])
AGO = st.sampled_from([0, 1, MINUTE, 5 * MINUTE, DAY_MS, -1])


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Deployed], Span]:
    base, rows = draw(BASES), []
    for number, end in enumerate(draw(st.lists(ENDS, min_size=draw(st.sampled_from([0, 10, 30])), max_size=50)), 1):
        ended_at = base + end
        commits_at = (None, ended_at + 1, ended_at, ended_at - MINUTE, ended_at - 3 * DAY_MS)
        rows.append(
            Deployed(
                number=number,
                status=draw(st.sampled_from([Status.SUCCESS, Status.FAILED, *Status])),
                environment=draw(st.sampled_from([*["production"] * 8, "staging", None])),
                repo_url=draw(st.sampled_from([*[SHOP] * 8, API, None])),
                commit_hash=draw(st.sampled_from(["a", "b", "c", None])),
                first_commit_at=draw(st.sampled_from(commits_at)),
                started_at=ended_at - draw(AGO),
                ended_at=ended_at,
                hotfix=draw(st.sampled_from([False, False, True])),
            )
        )
    since = base + draw(st.sampled_from([0, 0, 1, DAY_MS, 5 * DAY_MS - 1]))
    return rows, Span(since, since + draw(st.sampled_from([1, 3 * DAY_MS, 21 * DAY_MS, 25 * DAY_MS, 40 * DAY_MS + 1])))


@given(history=histories())
def test_a_second_computation_from_the_definitions_gives_the_same_figures(history: tuple[list[Deployed], Span]) -> None:
    everything, span = history
    inside = [each for each in everything if span.since <= each.ended_at < span.until]
    inside.sort(key=lambda each: (each.ended_at, each.number))
    found = dora(iter(inside), span)
    places = {(each.environment, each.repo_url) for each in inside}
    assert [(group.environment, group.repo) for group in found.groups] == sorted(
        (environment, repo) for environment, repo in places if environment and repo
    )
    assert found.incomplete == len([each for each in inside if not (each.environment and each.repo_url)])
    for group in found.groups:
        rows = [each for each in inside if (each.environment, each.repo_url) == (group.environment, group.repo)]
        assert as_computed(group.total) == by_definition(rows, rows)
        assert [week.week for week in group.weeks] == weeks_of(span)
        for week in group.weeks:
            some = [each for each in rows if iso_week(each.ended_at) == week.week]
            assert as_computed(week.figures) == by_definition(some, rows), week.week
        still = [each for each in rows if each.status == "failed" and until_success(each, rows) is None]
        assert group.open_failures.count == len(still)
        assert {each.id for each in group.open_failures.newest} <= {each.number for each in still}


@given(history=histories(), summed=st.sets(st.integers(-5, 10)))
def test_weeks_that_were_added_up_before_give_the_same_figures(
    history: tuple[list[Deployed], Span], summed: set[int]
) -> None:
    """Some weeks come as their sums and the others as deployments, also where commits and failures cross them."""
    everything, span = history
    inside = [each for each in everything if span.since <= each.ended_at < span.until]
    inside.sort(key=lambda each: (each.ended_at, each.number))
    items: list[Deployed | DeployedWeek] = []
    for (environment, repo), rows in by(inside, lambda each: (each.environment or "", each.repo_url or "")).items():
        for week, of_week in by(rows, lambda each: week_of(each.ended_at)).items():
            if week - week_of(span.since) in summed:
                items.append(DeployedWeek(environment, repo, week, sums_of(of_week)))
            else:
                items += of_week
    expected = dora(iter(inside), span)
    assert dora(iter(items), span) == expected
    collected = Collected(iter(items), span)
    assert [group.total for group in collected.dora(weeks=False).groups] == [group.total for group in expected.groups]
    assert sorted(collected.places) == [(group.environment, group.repo) for group in expected.groups]
    for number, week in enumerate(collected.by_week()):
        each = [group.weeks[number] for group in expected.groups]
        assert {week.week, *(of.week for of in each)} == {week.week}
        assert week.successful == sum(of.figures.successful.count for of in each)
        assert week.failed == sum(of.figures.failed.count for of in each)


def by(rows: list[Deployed], key: Callable[[Deployed], Any]) -> dict[Any, list[Deployed]]:
    found: dict[Any, list[Deployed]] = {}
    for each in rows:
        found.setdefault(key(each), []).append(each)
    return found


@given(history=histories())
def test_the_query_of_a_figure_selects_the_deployments_that_it_counts(history: tuple[list[Deployed], Span]) -> None:
    everything, span = history
    inside = [each for each in everything if span.since <= each.ended_at < span.until]
    found = dora(iter(sorted(inside, key=lambda each: (each.ended_at, each.number))), span)

    def selected(query: Any) -> int:
        since, until = parse_moment(query.since), parse_moment(query.until)
        place = (query.environment, query.repo, query.status)
        return len(
            [
                each
                for each in everything
                if since <= each.ended_at < until and (each.environment, each.repo_url, each.status) == place
            ]
        )

    for group in found.groups:
        for of in (group.total, *(week.figures for week in group.weeks)):
            for figure in (of.successful, of.failed, of.canceled, of.unknown):
                assert selected(figure.query) == figure.count
            for times in (of.time_to_next_success, of.duration, of.lead_time):
                assert selected(times.query) == times.of
        if group.open_failures.query is not None:
            assert selected(group.open_failures.query) == group.open_failures.count


# ---- weeks


def test_the_last_days_of_a_year_may_belong_to_week_53_or_to_the_next_year() -> None:
    days = ("2020-12-31", "2021-01-03", "2021-01-04", "2024-12-30", "2026-12-31", "2027-01-01", "1970-01-01")
    names = [name_of(week_of(parse_moment(day))) for day in days]
    assert names == ["2020-W53", "2020-W53", "2021-W01", "2025-W01", "2026-W53", "2026-W53", "1970-W01"]


def test_a_week_is_from_monday_until_monday_in_utc() -> None:
    """Also when clocks change: 2026-03-29 in Europe, 2026-03-08 in America."""
    for day in ("2026-03-23", "2026-03-30", "2026-03-02", "2026-10-19"):
        monday = parse_moment(day)
        assert whole_week(week_of(monday)) == (monday, monday + WEEK_MS)
        assert week_of(monday + WEEK_MS - 1) == week_of(monday) == week_of(monday - 1) + 1


def test_weeks_without_deployments_are_zeros_and_parts_of_weeks_are_marked() -> None:
    span = Span(MONDAY + DAY_MS, MONDAY + 3 * WEEK_MS)
    group = only(row(2 * 24 * 60), span=span)
    weeks: list[tuple[str, bool, int]] = [
        (each.week, each.complete, each.figures.successful.count) for each in group.weeks
    ]
    assert weeks == [("2026-W02", False, 1), ("2026-W03", True, 0), ("2026-W04", True, 0)]
    empty: Week = group.weeks[1]
    assert (empty.figures.failed.share, empty.figures.duration.median_ms) == (None, None)
    assert (empty.since, empty.until) == ("2026-01-12T00:00:00.000Z", "2026-01-19T00:00:00.000Z")
    assert (group.weeks[0].since, group.total.successful.days) == ("2026-01-06T00:00:00.000Z", 20)


def test_a_deployment_counts_in_the_week_of_its_end() -> None:
    last = WEEK_MS // MINUTE
    group = only(row(1), row(last - 1), row(last, started_at=MONDAY))
    assert [each.figures.successful.count for each in group.weeks] == [2, 1, 0]


def test_a_day_with_several_successful_deployments_counts_once() -> None:
    day = DAY_MS // MINUTE
    group = only(row(0), row(day - 1), row(day), row(day + 1), row(3 * day, Status.FAILED))
    assert (group.total.successful.count, group.total.successful.days_with) == (4, 2)


# ---- time to the next success


def test_canceled_and_unknown_ones_do_not_end_a_failure_and_are_in_no_share() -> None:
    group = only(
        row(1), row(2, Status.FAILED), row(3, Status.CANCELED), row(4, Status.UNKNOWN), row(5, Status.FAILED), row(12)
    )
    of = group.total
    assert (of.failed.share, of.canceled.count, of.unknown.count) == (0.5, 1, 1)
    assert (of.time_to_next_success.count, of.time_to_next_success.median_ms) == (2, 7 * MINUTE)
    assert of.time_to_next_success.p90_ms == 10 * MINUTE
    assert group.open_failures.count == 0


def test_the_next_success_is_of_the_same_repository_and_environment() -> None:
    shop, api, staging = (
        row(1, Status.FAILED),
        row(2, repo_url=API),
        row(3, environment="staging"),
    )
    groups = figures(shop, api, staging).groups
    assert [group.open_failures.count for group in groups] == [0, 1, 0]
    assert groups[1].open_failures.newest[0].id == 1


def test_a_failure_counts_in_its_own_week_even_if_the_success_is_in_a_later_one() -> None:
    later = 2 * WEEK_MS // MINUTE
    group = only(row(1, Status.FAILED), row(later))
    waits = [each.figures.time_to_next_success for each in group.weeks]
    assert [(each.count, each.median_ms) for each in waits] == [(1, (later - 1) * MINUTE), (0, None), (0, None)]


def test_a_success_that_ended_at_the_same_time_is_the_next_one_whatever_their_order() -> None:
    for numbers in ((1, 2), (2, 1)):
        group = only(row(5, Status.FAILED, number=numbers[0]), row(5, number=numbers[1]))
        assert group.total.time_to_next_success.median_ms == 0
        assert group.open_failures.count == 0


def test_failures_without_a_later_success_are_counted_and_the_newest_are_listed() -> None:
    group = only(row(1), *(row(n, Status.FAILED) for n in range(2, LISTED + 12)))
    still = group.open_failures
    assert (still.count, len(still.newest), still.newest[0].id) == (LISTED + 10, LISTED, LISTED + 11)
    assert still.query is not None
    assert (still.query.since, still.query.status) == ("2026-01-05T00:02:00.000Z", Status.FAILED)
    assert group.total.time_to_next_success.coverage == 0.0


# ---- lead time, duration, rollbacks


def test_the_coverage_says_for_how_many_deployments_a_lead_time_is_known() -> None:
    commit = MONDAY - DAY_MS
    group = only(*(row(n, first_commit_at=commit if n < 6 else None) for n in range(1, 7)))
    lead = group.total.lead_time
    assert (lead.count, lead.of, lead.coverage) == (5, 6, 0.8333)
    assert lead.median_ms == DAY_MS + 3 * MINUTE


def test_times_below_zero_are_left_out() -> None:
    of = only(row(1, first_commit_at=MONDAY + DAY_MS, started_at=MONDAY + DAY_MS), row(2)).total
    assert (of.duration.count, of.duration.of, of.lead_time.count, of.lead_time.median_ms) == (1, 2, 0, None)


def rollbacks(commits: str) -> int:
    return only(*(row(n, commit_hash=None if c == "-" else c) for n, c in enumerate(commits, 1))).total.rollbacks.count


def test_a_rollback_deploys_a_commit_again_that_a_newer_one_had_replaced() -> None:
    assert rollbacks("ab") == 0
    assert rollbacks("aa") == 0, "the same again is a repetition"
    assert rollbacks("aba") == 1
    assert rollbacks("abaa") == 1, "once"
    assert rollbacks("abab") == 1, "the way forward is no rollback"
    assert rollbacks("abca") == 1
    assert rollbacks("abcba") == 2
    assert rollbacks("ab-a-a") == 1, "without a commit nothing is known"
    assert rollbacks("---") == 0


def test_rework_is_rollbacks_and_hotfixes_and_one_that_is_both_counts_once() -> None:
    group = only(
        row(1, commit_hash="a"),
        row(2, commit_hash="b", hotfix=True),
        row(3, commit_hash="a"),
        row(4, commit_hash="c"),
        row(5, commit_hash="b", hotfix=True),
        row(6, hotfix=True),
        row(7, Status.FAILED, hotfix=True),
    )
    assert (group.total.rollbacks.count, group.total.rework.count, group.total.rework.of) == (2, 4, 6)
    assert group.total.rework.estimated


def test_only_successful_deployments_of_the_same_environment_count_for_rollbacks() -> None:
    failed = only(row(1, commit_hash="a"), row(2, Status.FAILED, commit_hash="b"), row(3, commit_hash="a"))
    assert (failed.total.rollbacks.count, failed.total.rollbacks.of) == (0, 2)
    two = figures(
        row(1, commit_hash="a"), row(2, commit_hash="b", environment="staging"), row(3, commit_hash="a")
    ).groups
    assert [group.total.rollbacks.count for group in two] == [0, 0]
    assert two[0].total.rollbacks.estimated


# ---- percentiles, and nothing at all


def test_percentiles_are_by_nearest_rank() -> None:
    assert percentile([15, 20, 35, 40, 50], 50) == 35
    assert percentile([15, 20, 35, 40], 50) == 20
    assert percentile(list(range(1, 11)), 90) == 9
    assert percentile([7], 90) == 7
    assert percentile([], 50) is None


def test_no_deployments_make_no_groups() -> None:
    found = figures()
    assert (found.groups, found.first_ended_at, found.incomplete) == ((), None, 0)


def test_deployments_without_environment_or_repository_are_counted_apart() -> None:
    found = figures(row(1, environment=None), row(2, repo_url=None), row(3, repo_url=""), row(4))
    assert (found.incomplete, len(found.groups), found.first_ended_at) == (3, 1, "2026-01-05T00:01:00.000Z")
