"""The proof of the fleet's soak finds what must not be in the log of epochs."""

from __future__ import annotations

import pytest

from tests.soak.fleet.epochs import Entry, prove

GOOD = [
    Entry("taken", "main", "1", "a", 1, at=1.0, committed_at=1.1),
    Entry("fence", "main", "2", "a", 1, at=2.0, committed_at=2.2),
    Entry("written", "main", "2", at=2.1, committed_at=2.2),
    Entry("taken", "main", "3", "b", 2, at=9.0, committed_at=9.1, free_from=8.0),
    Entry("fence", "main", "4", "b", 2, at=10.0, committed_at=10.2),
    Entry("taken", "other", "3", "b", 1, at=9.0, committed_at=9.1),
]


def test_a_log_in_order_proves_that_nobody_was_in_a_fence_with_another() -> None:
    proof = prove(GOOD)
    assert not proof.wrong.total()
    assert [(each.controller, each.number, each.transactions, each.rows) for each in proof.epochs] == [
        ("main", 1, 1, 1), ("main", 2, 1, 0), ("other", 1, 0, 0),
    ]  # fmt: skip
    assert proof.log().splitlines()[1] == "main,1,a,1.000,2.200,1,1"


@pytest.mark.parametrize(
    ("entry", "at", "what"),
    [
        (Entry("fence", "main", "5", "a", 1, at=9.5, committed_at=9.6), 4, "fences entered without the lease"),
        (Entry("fence", "main", "5", "a", 1, at=3.0, committed_at=9.5), 3, "two agents in a fence at once"),
        (Entry("written", "main", "5", at=3.0, committed_at=3.1), 3, "rows written outside of the fence"),
        (Entry("taken", "main", "5", "c", 2, at=11.0, free_from=10.5), 5, "leases taken with a wrong epoch"),
        (Entry("taken", "main", "5", "c", 3, at=11.0, free_from=11.5), 5, "leases taken before they were free"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_must_not_be_is_found(entry: Entry, at: int, what: str) -> None:
    assert prove([*GOOD[:at], entry, *GOOD[at:]]).wrong[what] == 1
