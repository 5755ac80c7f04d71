"""A few hundred inputs for each target: valid ones, bent and broken at random. ``make fuzz`` plays them for hours."""

from __future__ import annotations

import copy
import json
import os
from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz.seeds import seeds
from tests.fuzz.targets import CORPUS, TARGETS

if TYPE_CHECKING:
    from collections.abc import Callable

INPUTS = int(os.environ.get("HIVEL_FUZZ", "150"))

# What hides in documents: numbers at the edges of their types, half of a pair, what a terminal obeys, depth.
ODD: list[Any] = [
    None, True, False, 0, -1, 2**31, 2**63, -(2**63) - 1, 2**64, 10**400, 1e308, -0.0, "", " ", "\0", "\ud800",
    "\x1b[2J", "\u202e", "a" * 5_000, "9" * 5_000, [], {}, [[]] * 50, {"a": {"a": {"a": []}}}, "https://[your-jenkins]/job/a/2/",
    "https://[::1", "//", "refs/heads/", "HEAD", "{", "Merge pull request #", "9999-12-31T23:59:59Z", "-1", "NaN",
]  # fmt: skip
odd = st.sampled_from(ODD) | st.text(max_size=30) | st.integers() | st.floats()
picks = st.integers(0, 10_000)


def _places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [at] if at else []
    if isinstance(value, dict):
        return found + [each for key, below in value.items() for each in _places(below, (*at, key))]
    if isinstance(value, list):
        return found + [each for key, below in enumerate(value) for each in _places(below, (*at, key))]
    return found


def _bent(value: Any, changes: list[tuple[int, int, Any]]) -> Any:
    """The document with values replaced, taken out, or doubled at some places."""
    value = json.loads(json.dumps(value))
    for pick, kind, new in changes:
        places = _places(value)
        if not places:
            return value
        *way, last = places[pick % len(places)]
        around = value
        for key in way:
            around = around[key]
        if kind == 0:
            del around[last]
        elif kind == 1 and isinstance(around, list):
            around += [copy.deepcopy(around[last]) for _ in range(3)]
        else:
            around[last] = copy.deepcopy(new)
    return value


def _encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


@st.composite
def inputs(draw: st.DrawFn, target: str) -> bytes:
    seed = draw(st.sampled_from(seeds(target)))
    how = draw(st.integers(0, 3))
    if how == 0:
        return draw(st.binary(max_size=200))
    if how == 1:  # bytes changed, cut out or repeated
        at, length = draw(picks) % (len(seed) + 1), draw(st.integers(0, 40))
        return seed[:at] + draw(st.binary(max_size=20)) + seed[at + length :]
    try:
        value = json.loads(seed)
    except ValueError:
        text = seed.decode("utf-8", "replace")
        at = draw(picks) % (len(text) + 1)
        return (text[:at] + draw(st.text(max_size=20)) + text[at + draw(st.integers(0, 10)) :]).encode(
            "utf-8", "replace"
        )
    return _encoded(_bent(value, draw(st.lists(st.tuples(picks, st.integers(0, 3), odd), min_size=1, max_size=4))))


def _played(target: str) -> Callable[[], None]:
    @settings(
        max_examples=INPUTS, deadline=None, derandomize="HIVEL_FUZZ" not in os.environ, report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(inputs(target))
    def play(data: bytes) -> None:
        TARGETS[target](data)

    return play


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_that_somebody_else_chose_raises_what_nobody_expects(target: str) -> None:
    _played(target)()


@pytest.mark.parametrize(
    ("target", "name"), [(path.parent.name, path.name) for path in sorted(CORPUS.glob("*/*"))], ids=str
)
def test_what_was_found_once_stays_mended(target: str, name: str) -> None:
    TARGETS[target]((CORPUS / target / name).read_bytes())


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_has_seeds_that_it_takes(target: str) -> None:
    assert seeds(target)
    for seed in seeds(target):
        TARGETS[target](seed)
