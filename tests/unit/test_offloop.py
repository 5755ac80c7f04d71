"""Work for the outbox beside the event loop: in order, in one thread, and never half done when its caller is gone."""

from __future__ import annotations

import asyncio
import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from agent.outbox.offloop import OffLoop


def in_a_loop(test: object) -> None:
    asyncio.run(test())  # type: ignore[operator]


def test_calls_are_done_in_one_other_thread_in_their_order() -> None:
    async def test() -> None:
        done: list[int] = []
        async with OffLoop() as off_loop:
            threads = await asyncio.gather(*(off_loop(threading.get_ident) for _ in range(5)))
            await asyncio.gather(*(off_loop(done.append, number) for number in range(50)))
        assert len(set(threads)) == 1
        assert threading.get_ident() not in threads
        assert done == list(range(50))

    in_a_loop(test)


def test_calls_in_shared_threads_are_done_one_after_another_too() -> None:
    async def test() -> None:
        running = threading.Lock()

        def alone(number: int) -> int:
            assert running.acquire(blocking=False)
            done.append(number)
            running.release()
            return threading.get_ident()

        done: list[int] = []
        with ThreadPoolExecutor(4) as threads:
            async with OffLoop("polls", threads) as off_loop:
                await asyncio.gather(*(off_loop(alone, number) for number in range(200)))
            assert done == list(range(200))
            with pytest.raises(RuntimeError):
                await off_loop(alone, 0)

    in_a_loop(test)


def test_whoever_shares_threads_does_not_wait_for_the_others() -> None:
    async def test() -> None:
        stop = threading.Event()
        with ThreadPoolExecutor(2) as threads:
            async with OffLoop("slow", threads) as slow, OffLoop("quick", threads) as quick:
                waiting = asyncio.create_task(slow(stop.wait))
                assert await quick(int, "7") == 7
                stop.set()
                assert await waiting

    in_a_loop(test)


def test_an_exception_is_that_of_the_function() -> None:
    async def test() -> None:
        async with OffLoop() as off_loop:
            with pytest.raises(ValueError, match="nonsense"):
                await off_loop(int, "nonsense")
            assert await off_loop(int, "7") == 7

    in_a_loop(test)


def test_the_loop_goes_on_while_a_function_waits() -> None:
    async def test() -> None:
        may_end = threading.Event()
        async with OffLoop() as off_loop:
            call = asyncio.create_task(off_loop(may_end.wait, 20.0))
            for _ in range(10):
                await asyncio.sleep(0)
            assert not call.done()
            may_end.set()
            assert await call

    in_a_loop(test)


@pytest.mark.parametrize("error", [None, ValueError("in vain")])
def test_whoever_is_cancelled_waits_for_the_end_of_what_began(
    error: Exception | None, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        began, may_end, ended = threading.Event(), threading.Event(), []

        def slow() -> None:
            began.set()
            may_end.wait(120)
            ended.append(True)
            if error is not None:
                raise error

        async with OffLoop() as off_loop:
            call = asyncio.create_task(off_loop(slow))
            await asyncio.to_thread(began.wait, 20.0)
            for _ in range(3):  # however often
                call.cancel()
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            assert not call.done()
            may_end.set()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert ended == [True]

    in_a_loop(test)
    gc.collect()
    assert not caplog.records, "an exception that nobody can wait for is no trouble"


def test_what_has_not_begun_when_its_caller_is_cancelled_never_runs() -> None:
    async def test() -> None:
        may_end, done = threading.Event(), []
        async with OffLoop() as off_loop:
            first = asyncio.create_task(off_loop(may_end.wait, 20.0))
            second = asyncio.create_task(off_loop(done.append, 2))
            await asyncio.sleep(0)
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second
            may_end.set()
            assert await first
            await off_loop(done.append, 3)
        assert done == [3]

    in_a_loop(test)


def test_closing_waits_for_what_is_under_way() -> None:
    async def test() -> None:
        began, may_end, done = threading.Event(), threading.Event(), []

        def slow() -> None:
            began.set()
            may_end.wait(120)
            done.append(True)

        off_loop = OffLoop()
        call = asyncio.create_task(off_loop(slow))
        await asyncio.to_thread(began.wait, 20.0)
        closing = asyncio.create_task(off_loop.close())
        await asyncio.sleep(0)
        assert not closing.done()
        may_end.set()
        await closing
        assert done == [True]
        await call

    in_a_loop(test)
