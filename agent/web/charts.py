"""Bar charts as SVG, made on the server. A page shows the same numbers in a table beside the chart.

Series differ in pattern as well as colour: the first is filled, the second hatched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

WIDTH, HEIGHT = 720, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 8, 30, 24
_BASE = HEIGHT - _BOTTOM
_ROOM = _BASE - _TOP
# Labels below the bars, at most: more would overlap.
_MOST_LABELS = 8
_STEPS = (1, 2, 3, 4, 5, 6, 8)


@dataclass(frozen=True)
class Series:
    """One value for each label; None: no value. ``style`` is a class of the style sheet that sets a colour."""

    name: str
    style: str
    values: Sequence[int | None]


@dataclass(frozen=True)
class Chart:
    """Bars of one or two series on top of each other. ``name`` is unique on the page.

    ``show`` writes a value of the axis, which ends at a round number of ``unit``.
    """

    name: str
    title: str
    description: str
    labels: Sequence[str]
    series: Sequence[Series]
    show: Callable[[int], str] = "{:,}".format
    unit: int = 1


def svg(chart: Chart) -> Markup:
    """The chart as an element of a page."""
    highest = max((sum(each or 0 for each in column) for column in _columns(chart)), default=0)
    top = nice(-(-highest // chart.unit)) * chart.unit
    parts = [
        *_axis(chart, top),
        *_bars(chart, top),
        *_legend(chart),
    ]
    head = Markup(
        '<svg role="img" aria-labelledby="{0}-title {0}-desc" viewBox="0 0 {1} {2}" width="{1}" height="{2}"'
        ' font-size="12"><title id="{0}-title">{3}</title><desc id="{0}-desc">{4}</desc>'
    ).format(chart.name, WIDTH, HEIGHT, chart.title, chart.description)
    return head + Markup("").join(parts) + Markup("</svg>")


def nice(highest: int) -> int:
    """The smallest round number, such as 1, 6, 20 or 300, that is not lower."""
    unit = 1
    while True:
        for step in _STEPS:
            if step * unit >= highest:
                return step * unit
        unit *= 10


def _columns(chart: Chart) -> Iterator[tuple[int | None, ...]]:
    return zip(*(each.values for each in chart.series), strict=True)


def _axis(chart: Chart, top: int) -> Iterator[Markup]:
    for value in (0, top):
        y = _BASE - _ROOM * value // top
        yield Markup('<path d="M{} {}H{}" stroke="currentColor" stroke-opacity=".3"/>').format(_LEFT, y, WIDTH - _RIGHT)
        yield Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(_LEFT - 8, y + 4, chart.show(value))
    step = -(-len(chart.labels) // _MOST_LABELS) or 1
    for index in range(0, len(chart.labels), step):
        left, width = _place(index, len(chart.labels))
        yield Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(
            left + width // 2, HEIGHT - 6, chart.labels[index]
        )


def _bars(chart: Chart, top: int) -> Iterator[Markup]:
    below = [0] * len(chart.labels)
    for number, each in enumerate(chart.series):
        path = []
        for index, value in enumerate(each.values):
            if value:
                left, width = _place(index, len(chart.labels))
                height = max(1, _ROOM * value // top)
                path.append(f"M{left} {_BASE - _ROOM * below[index] // top}v-{height}h{width}v{height}z")
                below[index] += value
        yield _filled(f"{chart.name}-{number}", each.style, "".join(path), hatched=number > 0)


def _legend(chart: Chart) -> Iterator[Markup]:
    x = _LEFT
    for number, each in enumerate(chart.series):
        yield _filled(f"{chart.name}-legend-{number}", each.style, f"M{x} 6h12v12h-12z", hatched=number > 0)
        yield Markup('<text x="{}" y="17">{}</text>').format(x + 18, each.name)
        x += 40 + 7 * len(each.name)


def _filled(name: str, style: str, path: str, *, hatched: bool) -> Markup:
    if not hatched:
        return Markup('<path class="{}" fill="currentColor" d="{}"/>').format(style, path)
    return Markup(
        '<g class="{0}"><pattern id="{1}" width="5" height="5" patternUnits="userSpaceOnUse"'
        ' patternTransform="rotate(45)"><path d="M1 0v5" stroke="currentColor" stroke-width="2"/></pattern>'
        '<path fill="url(#{1})" stroke="currentColor" d="{2}"/></g>'
    ).format(style, name, path)


def _place(index: int, count: int) -> tuple[int, int]:
    """The left end and the width of a bar."""
    room = WIDTH - _LEFT - _RIGHT
    left, right = room * index // count, room * (index + 1) // count
    gap = 2 if right - left > 4 else 0
    return _LEFT + left + gap, max(1, right - left - 2 * gap)
