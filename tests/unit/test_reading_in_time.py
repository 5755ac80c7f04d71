"""What the pages do when the outbox is slow."""

from __future__ import annotations

import asyncio
import threading

import pytest

from agent.daemon import pages
from agent.outbox.offloop import OffLoop
from agent.web.backend import UnavailableError


def test_a_question_that_nobody_waits_for_any_more_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else many readers of a slow page would keep the pages busy long after they have given up."""
    monkeypatch.setattr(pages, "PATIENCE_S", 0.01)
    go_on = threading.Event()
    asked: list[str] = []

    def slow() -> None:
        asked.append("slow")
        go_on.wait(120)

    async def story() -> None:
        async with OffLoop() as off_loop:
            for ask in (slow, lambda: asked.append("late")):
                with pytest.raises(UnavailableError, match="did not answer within"):
                    await pages._in_time(off_loop(ask))
            # Until only this task and the slow one are left: the late one is cancelled.
            while len(asyncio.all_tasks()) > 2:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            go_on.set()
            await off_loop(asked.append, "next")

    asyncio.run(story())
    assert asked == ["slow", "next"]
