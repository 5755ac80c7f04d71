"""Lookups at Jenkins: how many at a time, for how long, and that their clients are closed."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from agent.config.credentials import Token
from agent.config.settings import JenkinsSettings
from agent.sources.jenkins.errors import StoppedError
from agent.web import lookups
from agent.web.lookups import MOST, Clients, Lookups
from agent.web.page import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

SETTINGS = JenkinsSettings(
    name="main",
    url="http://127.0.0.1:1/",
    username="u",
    token=Token("t"),
    poll_interval_ms=1,
    since="now",
    timeout_ms=1,
)


def test_a_lookup_that_takes_too_long_is_refused_and_its_clients_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookups, "TIMEOUT_S", 0.01)
    seen: list[Clients] = []
    go_on = threading.Event()

    def look(clients: Clients) -> None:
        seen.append(clients)
        go_on.wait(120)

    async def story() -> None:
        with pytest.raises(RefusedError, match="did not answer within") as refused:
            await Lookups().run(look)
        assert refused.value.status == 504

    try:
        asyncio.run(story())
        [clients] = seen
        with pytest.raises(StoppedError):
            clients(SETTINGS)
    finally:
        go_on.set()


def test_a_lookup_counts_until_its_thread_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookups, "TIMEOUT_S", 0.01)
    go_on = threading.Event()

    async def story() -> None:
        running = Lookups()
        stuck: Callable[[Clients], bool] = lambda _: go_on.wait(120)  # noqa: E731
        outcomes = await asyncio.gather(*(running.run(stuck) for _ in range(MOST)), return_exceptions=True)
        assert [type(each) for each in outcomes] == [RefusedError] * MOST
        with pytest.raises(RefusedError, match="looked up already"):
            await running.run(stuck)
        go_on.set()
        monkeypatch.setattr(lookups, "TIMEOUT_S", 120.0)
        while True:
            try:
                assert await running.run(lambda _: "done") == "done"
            except RefusedError:
                await asyncio.sleep(0)
            else:
                return

    asyncio.run(story())


def test_the_error_of_a_lookup_is_raised() -> None:
    def fail(_: Clients) -> None:
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        asyncio.run(Lookups().run(fail))
