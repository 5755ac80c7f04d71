"""What becomes of the errors of work that is done again and again, and what counts as progress."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from agent.daemon.watchdog import Watched
from agent.daemon.work import Work
from agent.model.trouble import Unexpected
from agent.outbox.values import DamagedError, OutboxError, OutboxFullError
from tests.integration.support import FakeClock

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE_S = 60.0


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def unexpected(clock: FakeClock) -> Unexpected:
    return Unexpected(clock)


@pytest.fixture
def work(clock: FakeClock, unexpected: Unexpected) -> Work:
    return Work(clock, unexpected)


@pytest.fixture
def watched() -> Watched:
    return Watched("delivery", PATIENCE_S)


@pytest.fixture(autouse=True)
def lines() -> Iterator[list[object]]:
    with capture_logs() as lines:
        yield lines


def run(work: Work, watched: Watched, error: Exception | None = None, *, idle: bool = False) -> None:
    """One run of the work that ends by an error, or well."""

    async def go() -> None:
        with work.doing(watched) as this:
            this.idle = idle
            if error is not None:
                raise error

    asyncio.run(go())


def gets_on(watched: Watched, clock: FakeClock, run: object) -> bool:
    """Whether the watchdog would go on being fed if every run ended like this one."""
    watched.stalled(clock.monotonic())
    for _ in range(20):
        clock.advance(s=10)
        run()  # type: ignore[operator]
        if watched.stalled(clock.monotonic()):
            return False
    return True


def test_a_run_that_ends_well_is_progress(work: Work, watched: Watched, clock: FakeClock) -> None:
    assert gets_on(watched, clock, lambda: run(work, watched))


def test_a_mistake_is_no_progress_and_is_over_with_the_next_run_that_ends_well(
    work: Work, watched: Watched, clock: FakeClock, unexpected: Unexpected
) -> None:
    assert not gets_on(watched, clock, lambda: run(work, watched, KeyError("x")))
    assert set(unexpected.reasons) == {"delivery"}
    assert unexpected.counts["delivery"] > 1
    assert not work.over.is_set(), "everything else goes on"
    run(work, watched)
    assert unexpected.reasons == {}
    assert not watched.stalled(clock.monotonic())


def test_that_there_was_nothing_to_do_does_not_end_a_mistake(
    work: Work, watched: Watched, clock: FakeClock, unexpected: Unexpected
) -> None:
    run(work, watched, KeyError("x"))
    run(work, watched, idle=True)
    assert set(unexpected.reasons) == {"delivery"}


@pytest.mark.parametrize("error", [OutboxError("no room"), OutboxFullError("[outbox] max_size is reached")])
def test_a_disk_that_cannot_be_written_is_trouble_and_no_reason_for_a_restart(
    work: Work, watched: Watched, clock: FakeClock, unexpected: Unexpected, error: Exception
) -> None:
    """What waits in memory would be lost by it."""
    assert gets_on(watched, clock, lambda: run(work, watched, error))
    assert str(error) in (work.storing.reason or "")
    assert (unexpected.reasons, unexpected.counts) == ({}, {})
    run(work, watched)
    assert work.storing.reason is None


def test_damage_ends_everything(work: Work, watched: Watched) -> None:
    first = DamagedError("page 7")
    run(work, watched, first)
    run(work, watched, DamagedError("page 8"))
    assert work.over.is_set()
    assert work.damage is first


def test_what_is_under_way_is_waited_for_and_what_takes_too_long_is_counted(
    work: Work, watched: Watched, clock: FakeClock
) -> None:
    async def go() -> tuple[int, int]:
        may_end = asyncio.Event()

        async def slow() -> None:
            with work.doing(watched):
                await may_end.wait()

        tasks = [asyncio.create_task(slow()) for _ in range(3)]
        late = await work.finish(0)
        may_end.set()
        in_time = await work.finish(10)
        await asyncio.gather(*tasks)
        return late, in_time

    assert asyncio.run(go()) == (3, 0)


def test_somebody_who_is_cancelled_is_not_a_mistake(work: Work, watched: Watched, unexpected: Unexpected) -> None:
    async def go() -> None:
        async def slow() -> None:
            with work.doing(watched):
                await asyncio.Event().wait()

        task = asyncio.create_task(slow())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(go())
    assert unexpected.reasons == {}
