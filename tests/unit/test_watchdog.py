"""The watchdog is fed as long as everything gets on, and not one second longer than it may take."""

from __future__ import annotations

import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from agent.config.settings import DeliverySettings, JenkinsSettings
from agent.daemon.systemd import extend_timeout, notify, notify_reloading, watchdog_s
from agent.daemon.watchdog import STALLED_S, Watchdog, Watched, patience_of_delivery, patience_of_poll
from tests.integration.support import FakeClock

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def systemd(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """What systemd hears."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        address = str(Path(folder, "notify"))
        sock.bind(address)
        sock.settimeout(1)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        yield sock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def jenkins(**changes: int) -> JenkinsSettings:
    values = {"poll_interval_ms": 15_000, "timeout_ms": 30_000, "requests_per_minute": 0} | changes
    return JenkinsSettings("main", "http://jenkins.example.test/", None, None, since="now", **values)


def test_the_watchdog_is_fed_while_runs_end(systemd: socket.socket, clock: FakeClock) -> None:
    watchdog = Watchdog(clock)
    poll = Watched("polls of main", 60)
    watchdog.watch(poll)
    for _ in range(20):
        poll.ended_well()
        assert watchdog.feed()
        assert systemd.recv(100) == b"WATCHDOG=1"
        clock.advance(s=50)


def test_the_watchdog_is_fed_during_a_long_poll_that_gets_on(systemd: socket.socket, clock: FakeClock) -> None:
    requests = [0]
    watchdog = Watchdog(clock)
    watchdog.watch(Watched("polls of main", 60, lambda: requests[0]))
    for _ in range(20):
        requests[0] += 1
        assert watchdog.feed()
        assert systemd.recv(100) == b"WATCHDOG=1"
        clock.advance(s=50)


def test_the_watchdog_is_not_fed_when_a_poll_hangs(systemd: socket.socket, clock: FakeClock) -> None:
    """However well everything else gets on."""
    watchdog = Watchdog(clock)
    hanging, other = Watched("polls of main", 60, lambda: 7), Watched("delivery", 60)
    watchdog.watch(hanging, other)
    assert watchdog.feed()
    fed = 1
    with capture_logs() as lines:
        for _ in range(10):
            clock.advance(s=20)
            other.ended_well()
            fed += watchdog.feed()
    assert fed == 1 + 3, "it is fed up to 60 seconds, and then no more"
    assert {line["stalled"] for line in lines} == {"polls of main"}
    hanging.ended_well()
    assert watchdog.feed()


def test_the_watchdog_is_not_fed_for_runs_that_end_by_a_mistake(systemd: socket.socket, clock: FakeClock) -> None:
    """Whatever they did before: a poll that asks Jenkins and then always stumbles gets on with nothing."""
    requests = [0]
    poll = Watched("polls of main", 60, lambda: requests[0])
    watchdog = Watchdog(clock)
    watchdog.watch(poll)
    assert watchdog.feed()
    fed = 0
    for _ in range(20):
        clock.advance(s=10)
        requests[0] += 5
        poll.ended_by_mistake()
        fed += watchdog.feed()
    assert fed == 6, "it is fed up to 60 seconds, and then no more"
    poll.ended_well()
    assert watchdog.feed()


def test_a_long_run_after_one_that_ended_by_a_mistake_is_waited_for_as_long_as_it_gets_on(
    systemd: socket.socket, clock: FakeClock
) -> None:
    requests = [0]
    poll = Watched("polls of main", 60, lambda: requests[0])
    watchdog = Watchdog(clock)
    watchdog.watch(poll)
    assert watchdog.feed()
    poll.ended_by_mistake()
    for _ in range(20):
        clock.advance(s=50)
        requests[0] += 1
        assert watchdog.feed()
        assert systemd.recv(100) == b"WATCHDOG=1"


def test_the_clock_on_the_wall_is_not_what_counts(systemd: socket.socket, clock: FakeClock) -> None:
    watchdog = Watchdog(clock)
    watchdog.watch(Watched("polls of main", 60))
    assert watchdog.feed()
    clock.jump(ms=365 * 86_400_000)
    assert watchdog.feed()


def test_patience_is_longer_where_the_settings_make_things_slow() -> None:
    assert patience_of_poll(jenkins()) == 90
    assert patience_of_poll(jenkins(poll_interval_ms=1_000, timeout_ms=1_000)) == STALLED_S
    assert patience_of_poll(jenkins(poll_interval_ms=600_000)) == 1800
    assert patience_of_poll(jenkins(requests_per_minute=1)) == 180
    assert patience_of_delivery(DeliverySettings(timeout_ms=60_000)) == 180
    assert patience_of_delivery(DeliverySettings(per_minute=1)) == 180


def test_systemd_hears_when_the_configuration_is_read_anew(systemd: socket.socket) -> None:
    notify_reloading()
    state, when = systemd.recv(100).decode().split("\n")
    assert state == "RELOADING=1"
    assert when.removeprefix("MONOTONIC_USEC=").isdigit()


def test_systemd_is_asked_for_more_time(systemd: socket.socket) -> None:
    extend_timeout(90)
    assert systemd.recv(100) == b"EXTEND_TIMEOUT_USEC=90000000"


def test_a_systemd_that_reads_nothing_does_not_hold_up_the_agent(
    systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.daemon.systemd.TIMEOUT_S", 0.01)
    with capture_logs() as lines:
        for _ in range(10_000):
            notify("WATCHDOG=1")
            if lines:
                break
    assert lines[0]["event"] == "cannot notify systemd"


def test_without_systemd_nobody_is_told_and_nothing_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", "/there/is/no/such/socket")
    with capture_logs() as lines:
        notify("READY=1")
    assert [line["event"] for line in lines] == ["cannot notify systemd"]


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [("30000000", None, 30.0), ("30000000", "1", None), ("0", None, None), ("often", None, None), (None, None, None)],
)
def test_the_watchdog_is_wanted_when_systemd_says_so_to_this_process(
    monkeypatch: pytest.MonkeyPatch, usec: str | None, pid: str | None, seconds: float | None
) -> None:
    for name, value in (("WATCHDOG_USEC", usec), ("WATCHDOG_PID", pid)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert watchdog_s() == seconds
