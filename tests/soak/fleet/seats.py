"""The agents of the fleet: each has a seat, in which one process follows another, however the one before ended."""

from __future__ import annotations

import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.integration.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.postgresql.fleet import Fleet, Running

PATIENCE_S = 300.0


@dataclass
class Spans:
    """When something was the case, in monotonic seconds; None: still is."""

    all: list[tuple[float, float | None]] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator[None]:
        """It is the case during the block."""
        self.begin()
        try:
            yield
        finally:
            self.end()

    def begin(self) -> None:
        self.all.append((time.monotonic(), None))

    def end(self) -> None:
        if self.all and self.all[-1][1] is None:
            self.all[-1] = (self.all[-1][0], time.monotonic())

    def covers(self, begin: float, end: float) -> bool:
        """Whether it was the case all the time."""
        return any(first <= begin and (last is None or last >= end) for first, last in self.all)

    def touches(self, begin: float, end: float) -> bool:
        """Whether it was the case at any time."""
        return any(first <= end and (last is None or last >= begin) for first, last in self.all)


@dataclass(frozen=True)
class Loss:
    """A process that left its controllers. ``how``: what the soak did to it."""

    how: str
    seat: str
    user: str
    at: float
    controllers: tuple[str, ...]


class Seat:
    """One agent. ``up``: when its process was ready and not frozen."""

    def __init__(self, fleet: Fleet, name: str) -> None:
        self._fleet = fleet
        self.name = name
        self.up = Spans()
        self.losses: list[Loss] = []
        self.starts = 0
        self.largest_kb = 0
        self._running: Running | None = None

    @property
    def running(self) -> Running:
        """The process in it."""
        assert self._running is not None
        return self._running

    def start(self, *, wait: bool = True) -> None:
        """Start a process, and wait until it works."""
        self.starts += 1
        self._running = self._fleet.start(self.name, wait=False)
        if wait:
            self.wait()

    def wait(self) -> None:
        """Until it works."""
        running = self.running
        wait_until(lambda: self.works or not self.runs, f"{running.user} has started", PATIENCE_S)
        if self.runs:
            self.up.begin()

    @property
    def works(self) -> bool:
        """Whether it has started."""
        return "event=started" in self.running.agent.log()

    @property
    def runs(self) -> bool:
        """Whether its process lives."""
        return self.running.process.poll() is None

    def kill(self) -> None:
        """End the process as a crash does."""
        self._note_size()
        self.up.end()
        self._lose("kill -9")
        self.running.kill()

    def stop(self) -> int:
        """End the process as systemd does; returns its exit code."""
        self._note_size()
        self.up.end()
        self._lose("stop")
        return self.running.stop()

    def freeze(self) -> None:
        """Let the process stand still."""
        self.up.end()
        self._lose("freeze")
        self.running.freeze()

    def thaw(self) -> None:
        """Let it go on."""
        self.running.thaw()
        self.up.begin()

    def _lose(self, how: str) -> None:
        user = self.running.user
        held = self._fleet.front.polled_by(user)
        self.losses.append(Loss(how, self.name, user, time.monotonic(), tuple(held)))

    def _note_size(self) -> None:
        with suppress(OSError, StopIteration):  # it has ended already
            status = Path(f"/proc/{self.running.process.pid}/status").read_text().splitlines()
            line = next(line for line in status if line.startswith("VmHWM"))
            self.largest_kb = max(self.largest_kb, int(line.split()[1]))
