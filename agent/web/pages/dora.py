"""``/dora``: the figures of DORA. Each figure is a link to the deployments that it was made of.

Without a selection the page has a row for each environment and repository; for one of them it has a row for each week.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any

from agent.inspect.dora.figures import Collected
from agent.inspect.dora.request import span_of
from agent.inspect.dora.table import COLUMNS, rows
from agent.web.charts import Chart, Series, svg
from agent.web.page import Page, RefusedError
from agent.web.rendering import Shown, Table, duration

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from markupsafe import Markup

    from agent.inspect.dora.figures import Dora, Figures, Group, Query, Times, WeekCounts
    from agent.inspect.dora.weeks import Span
    from agent.outbox.interface import Outbox
    from agent.web.page import Visit

SINCE, UNTIL = "90d", "now"
# Rows of the page, so that it stays small; JSON and CSV have all. The charts and their table have all weeks.
MOST_GROUPS, MOST_WEEKS = 5, 4
LONGEST = 2_000
_MOST_NAMES = 25
_UNITS_MS = (86_400_000, 3_600_000, 60_000, 1_000)


async def show(visit: Visit) -> Shown:
    """The same figures as ``hivel-agent dora``."""
    given = visit.request.query_params
    asked = {name: given.get(name, "").strip() for name in ("since", "until", "environment", "repo")}
    if any(len(value) > LONGEST for value in asked.values()):
        raise RefusedError(400, f"a filter has more than {LONGEST} characters")
    try:
        span = span_of(asked["since"] or SINCE, asked["until"] or UNTIL, visit.backend.clock.now_ms())
    except ValueError as error:
        raise RefusedError(400, str(error)) from None
    everything = visit.request.url.path.endswith((".json", ".csv"))
    view, lines, left_out, menus = await visit.backend.read(
        lambda outbox: _figures(outbox, span, asked, everything=everything)
    )
    one = len(view.groups) == 1 and not left_out
    more = {
        **menus,
        "asked": asked,
        "query": {name: value for name, value in asked.items() if value},
        "rows": _links(visit.renderer.url),
        **(_of_group(view.groups[0]) if one else _of_groups(view, lines, left_out)),
    }
    return Shown("dora.html", "DORA", view, Table(COLUMNS, rows(view)), more)


def _figures(
    outbox: Outbox, span: Span, asked: Mapping[str, str], *, everything: bool
) -> tuple[Dora, list[WeekCounts], int, dict[str, list[str]]]:
    """The figures of what is shown, the weeks of all together, and how many groups are left out.

    The page shows few groups, and their weeks only if there is a single one.
    """
    environment, repo = asked["environment"] or None, asked["repo"] or None
    deployed = outbox.deployed_by_week(*span, environment=environment, repo_url=repo)
    collected = Collected(deployed, span)
    places = collected.places
    all_weeks = everything or len(places) == 1
    view = collected.dora(None if everything else places[:MOST_GROUPS], weeks=all_weeks)
    names = outbox.names(_MOST_NAMES + 1)
    environments, repositories = (found if len(found) <= _MOST_NAMES else [] for found in names)
    menus = {"environments": environments, "repositories": repositories}
    return view, collected.by_week() if places else [], max(0, len(places) - MOST_GROUPS), menus


def _links(url: Callable[..., str]) -> Callable[[Query], str]:
    def rows_of(query: Query) -> str:
        """The page with the deployments that a figure was made of."""
        return url(
            "/deployments",
            environment=query.environment,
            repo=query.repo,
            since=_short(query.since),
            until=_short(query.until),
            status=query.status,
            state=query.state,
        )

    return rows_of


def _short(moment: str) -> str:
    """The same moment in fewer characters: a page has many of these links."""
    return moment.replace(".000Z", "Z").removesuffix("T00:00:00Z")


# ---- charts


def _of_groups(view: Dora, lines: Sequence[WeekCounts], left_out: int) -> dict[str, Any]:
    """A chart of all environments and repositories together, and the largest of them as rows."""
    weeks = [each.week for each in lines]
    return {
        "group": None,
        "groups": view.groups,
        "left_out": left_out,
        "charts": _drawn(
            [_deployments(weeks, [each.successful for each in lines], [each.failed for each in lines])] if weeks else []
        ),
        "lines": lines,
    }


def _of_group(group: Group) -> dict[str, Any]:
    """Charts of one environment and repository, and its newest weeks as rows."""
    weeks = [week.week for week in group.weeks]
    figures = [week.figures for week in group.weeks]
    charts = [_deployments(weeks, [f.successful.count for f in figures], [f.failed.count for f in figures])]
    charts += [
        _times(name, title, weeks, [get(each) for each in figures])
        for name, title, get in (
            ("duration", "Duration of successful deployments by week", attrgetter("duration")),
            ("lead", "Lead time by week", attrgetter("lead_time")),
        )
        if get(group.total).count
    ]
    return {
        "group": group,
        "groups": [],
        "weeks": group.weeks[: -MOST_WEEKS - 1 : -1],
        "left_out": max(0, len(group.weeks) - MOST_WEEKS),
        "charts": _drawn(charts),
        "lines": [_line(week, of) for week, of in zip(weeks, figures, strict=True)],
    }


def _line(week: str, of: Figures) -> tuple[str, int, int, int | None, int | None]:
    return week, of.successful.count, of.failed.count, of.duration.median_ms, of.lead_time.median_ms


def _drawn(charts: Sequence[Chart]) -> list[tuple[str, Markup]]:
    return [(chart.title, svg(chart)) for chart in charts]


def _deployments(weeks: Sequence[str], successful: Sequence[int], failed: Sequence[int]) -> Chart:
    return Chart(
        name="deployments",
        title="Deployments by week",
        description=f"{sum(successful):,} successful and {sum(failed):,} failed. The table below has each week.",
        labels=weeks,
        series=[Series("successful", "success", successful), Series("failed", "failed", failed)],
    )


def _times(name: str, title: str, weeks: Sequence[str], values: Sequence[Times]) -> Chart:
    medians = [each.median_ms for each in values]
    longest = max((each for each in medians if each is not None), default=0)
    return Chart(
        name=name,
        title=title,
        description=f"At most {duration(longest)}. The table below has each week.",
        labels=weeks,
        series=[Series("median", "quiet", medians)],
        show=_on_axis,
        unit=next((unit for unit in _UNITS_MS if longest >= unit), 1),
    )


def _on_axis(ms: int) -> str:
    return duration(ms) if ms else "0"


PAGE = Page("/dora", show)
