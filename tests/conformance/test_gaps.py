"""How far a platform's API was read is kept for each stream, and replaced as a whole."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from agent.outbox.values import GapLook

if TYPE_CHECKING:
    from agent.outbox.interface import Outbox
    from tests.engines import Engine

LOOK = GapLook("github", "acme/shop", "deployments", 1_000, 2_000, ("7", "9"), 3, 4_000, "HTTP 503")


def test_a_look_is_kept_for_its_stream(engine: Engine, outbox: Outbox) -> None:
    assert outbox.gap_look("github", "acme/shop", "deployments") is None
    outbox.save_gap_look(LOOK)
    outbox.save_gap_look(GapLook("github", "acme/cart", "deployments", 1, 2))
    with closing(engine.open()) as other:
        assert other.gap_look("github", "acme/shop", "deployments") == LOOK
        assert other.gap_look("github", "acme/shop", "workflow runs") is None
        assert other.gap_look("gitlab", "acme/shop", "deployments") is None
        assert [look.project for look in other.gap_looks()] == ["acme/cart", "acme/shop"]


def test_a_later_look_replaces_the_earlier_one(outbox: Outbox) -> None:
    outbox.save_gap_look(LOOK)
    later = GapLook("github", "acme/shop", "deployments", 1_000, 9_000)
    outbox.save_gap_look(later)
    assert outbox.gap_looks() == [later]


def test_a_look_is_stored_with_the_rest_of_a_transaction_or_not_at_all(outbox: Outbox) -> None:
    def stop() -> None:
        raise KeyError

    with pytest.raises(KeyError), outbox.transaction():
        outbox.save_gap_look(LOOK)
        stop()
    assert outbox.gap_looks() == []
