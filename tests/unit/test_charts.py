"""Charts: what is in the SVG, and that no name can break out of it."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from agent.web.charts import Chart, Series, nice, svg

NAMES = {"svg": "http://www.w3.org/2000/svg"}


def chart(*series: Series, labels: int = 3, title: str = "Deployments") -> Chart:
    return Chart("c", title, "description", [f"h{number}" for number in range(labels)], series)


@pytest.mark.parametrize(
    ("highest", "top"), [(0, 1), (1, 1), (2, 2), (3, 3), (7, 8), (9, 10), (11, 20), (51, 60), (3_000_001, 4_000_000)]
)
def test_the_axis_ends_at_a_round_number(highest: int, top: int) -> None:
    assert nice(highest) == top


def test_a_chart_has_a_title_a_description_and_a_legend() -> None:
    made = ElementTree.fromstring(svg(chart(Series("delivered", "ok", [1, 2, 3]), Series("failed", "bad", [0, 1, 0]))))
    assert made.attrib["role"] == "img"
    assert made.attrib["aria-labelledby"] == "c-title c-desc"
    assert [each.attrib["id"] for each in made if each.tag in ("title", "desc")] == ["c-title", "c-desc"]
    texts = [each.text for each in made.iter("text")]
    assert {"delivered", "failed", "h0", "3"} <= set(texts)


def test_the_heights_of_bars_are_in_proportion_and_series_lie_on_top_of_each_other() -> None:
    made = svg(chart(Series("a", "ok", [5, 10, 0]), Series("b", "bad", [5, 0, None])))
    bars = re.findall(r"M\d+ (\d+)v-(\d+)h\d+v\d+z", made)
    base, half = int(bars[0][0]), int(bars[0][1])
    assert bars == [(str(base), str(half)), (str(base), str(2 * half)), (str(base - half), str(half))]


def test_series_differ_in_pattern_too() -> None:
    made = ElementTree.fromstring(svg(chart(Series("a", "ok", [1, 1, 1]), Series("b", "bad", [1, 1, 1]))))
    fills = [each.attrib["fill"] for each in made.iter("path") if "fill" in each.attrib]
    assert fills == ["currentColor", "url(#c-1)", "currentColor", "url(#c-legend-1)"]
    assert {each.attrib["id"] for each in made.iter("pattern")} == {"c-1", "c-legend-1"}


def test_names_are_text() -> None:
    made = ElementTree.fromstring(svg(chart(Series("<script>", "ok", [1, 1, 1]), title='"><script>alert(1)</script>')))
    assert next(made.iter("title")).text == '"><script>alert(1)</script>'
    assert not list(made.iter("script"))


def test_a_year_of_weeks_is_small_and_an_empty_chart_is_possible() -> None:
    weeks = [number % 7 + 1 for number in range(53)]
    assert len(svg(chart(Series("a", "ok", weeks), Series("b", "bad", weeks), labels=53))) < 5_000
    ElementTree.fromstring(svg(chart(Series("a", "ok", []), labels=0)))
