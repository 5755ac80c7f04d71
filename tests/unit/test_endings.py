"""What became of build numbers, as ranges: whatever order it is noted in."""

from __future__ import annotations

from itertools import pairwise

import hypothesis.strategies as st
from hypothesis import given

from agent.model.endings import Ended, Ending, put, ranges, without

DAY = 86_400_000

spans = st.tuples(st.integers(1, 40), st.integers(0, 15))
ended = st.builds(
    lambda span, ending, day: Ended(span[0], span[0] + span[1], ending, day * DAY),
    spans, st.sampled_from(Ending), st.integers(0, 2),
)  # fmt: skip


def numbers(of: list[Ended]) -> dict[int, Ending]:
    return {number: each.ending for each in of for number in range(each.first, each.last + 1)}


@given(st.lists(ended, max_size=12))
def test_each_number_has_the_weightiest_word_that_was_said_of_it(said: list[Ended]) -> None:
    expected: dict[int, Ending] = {}
    for each in said:
        for number in range(each.first, each.last + 1):
            expected[number] = max(expected.get(number, each.ending), each.ending, key=lambda word: word.weight)
    assert numbers(put([], said)) == expected


@given(st.lists(ended, max_size=12).flatmap(lambda said: st.tuples(st.just(said), st.permutations(said))))
def test_what_became_of_a_number_does_not_depend_on_the_order_of_the_words(
    both: tuple[list[Ended], list[Ended]],
) -> None:
    said, shuffled = both
    assert numbers(put([], said)) == numbers(put([], shuffled))


@given(st.lists(ended, max_size=12), st.integers(0, 12))
def test_ranges_never_overlap_and_none_could_be_joined_with_the_next(said: list[Ended], at: int) -> None:
    found = put(put([], said[:at]), said[at:])
    for one, next_one in pairwise(found):
        assert one.first <= one.last < next_one.first
        assert not one.touches(next_one)


@given(st.sets(st.integers(1, 60)))
def test_ranges_hold_just_the_numbers_that_were_given(given_numbers: set[int]) -> None:
    found = ranges(given_numbers, Ending.READ, at=5)
    assert set(numbers(found)) == given_numbers
    assert put([], found) == found


@given(st.integers(1, 50), st.integers(0, 50), st.sets(st.integers(1, 110)))
def test_what_is_left_of_a_range_and_what_is_taken_out_are_the_whole(first: int, more: int, out: set[int]) -> None:
    left = {n for begin, end in without(first, first + more, out) for n in range(begin, end + 1)}
    assert left == set(range(first, first + more + 1)) - out


def test_a_thousand_builds_one_after_the_other_are_one_range_a_day() -> None:
    found: list[Ended] = []
    for number in range(1, 1_001):
        found = put(found, [Ended(number, number, Ending.READ, at=number * 1_000)])
    assert found == [Ended(1, 1_000, Ending.READ, at=1_000_000)]
    assert len(put(found, [Ended(1_001, 1_001, Ending.READ, at=DAY)])) == 2
