"""The queue of log lines: logging never blocks and never fails, whatever happens to the disk or pipe behind it.

One thread writes. While it cannot, lines wait in memory, up to a limit. Lines beyond the limit, and lines that could
not be written, are counted. When writing works again, a line reports the count.
"""

from __future__ import annotations

import io
import os
import select
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_LINES = 10_000
MOST_BYTES = 8 * 1024 * 1024
# How long the end of the process waits for the remaining lines.
LAST_S = 1.0
# `/readyz` reports a write that takes longer.
SLOW_S = 5.0
_TOGETHER = 64 * 1024


@dataclass(frozen=True)
class LogState:
    """``lost``: number of lines since the start that were not written. ``reason``: the current problem."""

    lost: int = 0
    reason: str | None = None


class LogQueue:
    """``put`` never blocks and never raises.

    ``told`` makes the line that reports how many lines are missing, and why.
    """

    def __init__(self, fd: int, told: Callable[[int, str], str]) -> None:
        self._fd = fd
        self._told = told
        self._begin()
        # A child process has no copy of the thread, and the parent writes the waiting lines.
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        self._changed = threading.Condition()  # an RLock, because a destructor can log while this thread is in `put`
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._thread: threading.Thread | None = None
        self._writing_since: float | None = None
        self._lost = 0
        self._untold = 0
        self._why = ""
        self._in_a_line = False  # part of a line was written, and the rest failed

    def put(self, line: str) -> None:
        """Queue a line."""
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        with self._changed:
            if len(self._waiting) >= MOST_LINES or self._bytes + len(data) > MOST_BYTES:
                self._lose(1, self._why or "writing is blocked and the queue is full")
                return
            self._waiting.append(data)
            self._bytes += len(data)
            if self._thread is None:
                self._start()
            self._changed.notify_all()

    def flush(self, within_s: float = LAST_S) -> bool:
        """Wait until every line is written or lost; False: that took too long."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and self._writing_since is None, within_s)

    @property
    def state(self) -> LogState:
        """The state of the log."""
        with self._changed:
            since = self._writing_since
            if self._untold:
                reason: str | None = f"{self._untold} log lines were lost: {self._why}"
            elif since is not None and (seconds := time.monotonic() - since) > SLOW_S:
                reason = f"the log is blocked for {seconds:.0f} s; {len(self._waiting)} lines are waiting"
            else:
                reason = None
            return LogState(self._lost, reason)

    def _lose(self, count: int, why: str) -> None:
        self._lost += count
        self._untold += count
        self._why = why

    # ---- the thread

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="log", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no thread can be created, or the interpreter ends
            self._lose(len(self._waiting), "cannot start a thread")
            self._waiting.clear()
            self._bytes = 0
        else:
            self._thread = thread

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                batch = self._next()
                missing, why = self._untold, self._why
                self._writing_since = time.monotonic()
            if missing:
                batch = self._told(missing, why).encode("utf-8", "backslashreplace") + b"\n" + batch
            written, problem = self._write((b"\n" if self._in_a_line else b"") + batch)
            with self._changed:
                self._writing_since = None
                self._note(batch, missing, written - self._in_a_line, problem)
                self._changed.notify_all()

    def _next(self) -> bytes:
        taken = [self._waiting.popleft()]
        size = len(taken[0])
        while self._waiting and size < _TOGETHER:
            size += len(self._waiting[0])
            taken.append(self._waiting.popleft())
        self._bytes -= size
        return b"".join(taken)

    def _write(self, data: bytes) -> tuple[int, str | None]:
        """The number of bytes that were written, and the error if not all were."""
        written = 0
        while written < len(data):
            try:
                written += os.write(self._fd, data[written:])
            except BlockingIOError:  # another process with the same pipe made it non-blocking
                waiting = select.poll()
                waiting.register(self._fd, select.POLLOUT)
                waiting.poll()
            except OSError as error:
                return written, error.strerror or str(error)
        return written, None

    def _note(self, batch: bytes, missing: int, written: int, problem: str | None) -> None:
        """Record the result of a batch. Its first line reported ``missing`` lines, if there are any."""
        if written > 0:
            self._in_a_line = batch[written - 1 : written] != b"\n"
        if batch[written : written + 1] == b"\n":  # the next batch starts with it
            written += 1
        lines = batch[: max(written, 0)].count(b"\n")
        if missing and lines:
            self._untold -= missing
        if problem is not None:
            told_in_vain = bool(missing) and not lines
            self._lose(batch.count(b"\n") - lines - told_in_vain, problem)


class LogStream(io.TextIOBase):
    """The queue as a text stream for standard error, line by line."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, put: Callable[[str], None]) -> None:
        super().__init__()
        self._put = put
        self._begun = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *whole, self._begun = (self._begun + text).split("\n")
        for line in whole:
            self._put(line)
        return len(text)
