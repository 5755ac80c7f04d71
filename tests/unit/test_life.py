"""How often the daemon does what it repeats."""

from __future__ import annotations

import pytest

from agent.daemon.life import held_s


@pytest.mark.parametrize(("hold_for_ms", "seconds"), [(0, 5), (1_000, 5), (3_600_000, 36), (86_400_000, 60)])
def test_held_events_are_looked_for_the_more_seldom_the_longer_they_are_held(hold_for_ms: int, seconds: float) -> None:
    assert held_s(hold_for_ms) == seconds
