"""Requests get what the present life gives; between two lives they wait for the next one, and not for ever."""

from __future__ import annotations

import asyncio

import pytest

from agent.daemon.handover import Handover, NobodyThereError


def test_what_is_given_is_there_at_once_and_no_more_when_the_life_is_over() -> None:
    async def play() -> None:
        handover: Handover[str] = Handover()
        assert handover.present is None
        with handover.given("first"):
            assert (handover.present, await handover.get(0)) == ("first", "first")
        assert handover.present is None
        with pytest.raises(NobodyThereError, match="the agent is not ready"):
            await handover.get(0)

    asyncio.run(play())


def test_who_comes_between_two_lives_gets_the_next_one() -> None:
    async def play() -> None:
        handover: Handover[str] = Handover()
        with handover.given("first"):
            pass
        waiting = [asyncio.create_task(handover.get(20)) for _ in range(3)]
        await asyncio.sleep(0)
        with handover.given("second"):
            assert await asyncio.gather(*waiting) == ["second"] * 3

    asyncio.run(play())


def test_who_waited_for_a_life_that_is_over_already_gets_the_one_after_it() -> None:
    async def play() -> None:
        handover: Handover[str] = Handover()
        waiting = asyncio.create_task(handover.get(20))
        await asyncio.sleep(0)
        with handover.given("short"):
            pass  # nobody had the time to notice
        await asyncio.sleep(0)
        assert not waiting.done()
        with handover.given("next"):
            assert await waiting == "next"

    asyncio.run(play())


def test_a_life_that_ends_by_an_error_gives_nothing_any_more() -> None:
    handover: Handover[str] = Handover()
    with pytest.raises(ZeroDivisionError), handover.given("first"):
        raise ZeroDivisionError
    assert handover.present is None
