"""What small worlds, each a kind of pipeline that people have, make arrive at Hivel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.worlds import play, wrong

WORLDS = sorted((Path(__file__).parents[1] / "data" / "worlds").glob("*.json"))


def _read(path: Path) -> dict[str, Any]:
    world: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return world


@pytest.mark.parametrize("path", WORLDS, ids=lambda path: path.stem)
def test_hivel_gets_what_was_deployed(path: Path, tmp_path: Path) -> None:
    world = _read(path)
    assert wrong(world, play(world, tmp_path)) == [], world["situation"]


def test_a_world_can_be_wrong(tmp_path: Path) -> None:
    """A player that finds nothing would make all of the above worthless."""
    world = _read(WORLDS[0])
    played = play(world, tmp_path)
    other = world | {"expect": {"m:nobody#1": {}}, "failed": {"m:nobody#2": "why"}, "audit": {"nobody": {"3": "event"}}}
    assert len(wrong(other, played)) == 3 + len(played.sent) + len(played.failed)
