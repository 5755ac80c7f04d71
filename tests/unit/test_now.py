"""The sentence of the first page."""

from __future__ import annotations

import pytest

from agent.outbox.values import Counts, Recent
from agent.web.pages.now import sentence


@pytest.mark.parametrize(
    ("counts", "recent", "delivery", "expected"),
    [
        (
            Counts(3, 0, 5000, 0),
            Recent(1204, 0, 0, 0, 0),
            "open",
            "All 1,204 deployments of the last 7 days are at Hivel; 3 wait, 0 failed.",
        ),
        (
            Counts(1, 0, 10, 2),
            Recent(7, 1, 0, 2, 5),
            "open",
            "7 of 10 deployments of the last 7 days are at Hivel; 1 waits, 2 failed.",
        ),
        (
            Counts(0, 0, 9, 0),
            Recent(0, 0, 0, 0, 0),
            "open",
            "No deployment ended in the last 7 days; 0 wait, 0 failed.",
        ),
        (
            Counts(0, 0, 1, 0),
            Recent(1, 0, 0, 0, 0),
            "open",
            "The only deployment of the last 7 days is at Hivel; 0 wait, 0 failed.",
        ),
        (Counts(4, 1, 1, 0), Recent(1, 4, 1, 0, 0), "outage", "Hivel cannot be reached; 5 wait, 0 failed."),
        (
            Counts(4, 1, 1, 0),
            Recent(1, 4, 1, 0, 0),
            "paused",
            "Delivery is paused until a person acts; 5 wait, 0 failed.",
        ),
        (
            Counts(90_000, 0, 12, 0),
            Recent(9, 5, 0, 0, 0, more=True),
            "open",
            "12 deployments are at Hivel; 90,000 wait, 0 failed.",
        ),
    ],
)
def test_the_sentence_says_how_much_is_at_hivel_and_what_is_not(
    counts: Counts, recent: Recent, delivery: str, expected: str
) -> None:
    assert sentence(counts, recent, delivery, has_problem=False) == expected


def test_a_problem_comes_first() -> None:
    counts, recent = Counts(1, 0, 1, 0), Recent(1, 1, 0, 0, 0)
    assert sentence(counts, recent, "open", has_problem=True) == "The agent has a problem; 1 waits, 0 failed."
