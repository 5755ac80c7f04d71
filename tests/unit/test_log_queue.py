"""The log's queue: whatever the file behind it does, nobody who logs notices, and each line is written or counted."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.daemon import log_queue
from agent.daemon.log_queue import LogQueue, LogStream

if TYPE_CHECKING:
    from pathlib import Path

FAILURES = [errno.ENOSPC, errno.EPIPE, errno.EIO, errno.EBADF]


class Device:
    """What is behind a file descriptor: takes parts, refuses, and comes back, as a test says."""

    def __init__(self, does: list[int]) -> None:
        """``does``: at each write so many bytes, or with a number below 0 that error; then everything."""
        self._does = list(does)
        self.written = b""

    def write(self, _fd: int, data: bytes) -> int:
        does = self._does.pop(0) if self._does else len(data)
        if does < 0:
            raise OSError(-does, os.strerror(-does))
        self.written += data[:does]
        return min(does, len(data))


@given(
    lines=st.lists(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20), min_size=1, max_size=8),
    does=st.lists(st.integers(1, 40) | st.sampled_from([-each for each in FAILURES]), max_size=12),
)
def test_each_line_is_written_whole_or_counted(lines: list[str], does: list[int]) -> None:
    device = Device(does)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agent.daemon.log_queue.os.write", device.write)
        queue = LogQueue(99, lambda count, _: f"lost {count} !")
        for line in lines:
            queue.put(f"<{line}>")
            assert queue.flush(10)
        for _ in range(len(does)):  # until the device takes everything
            queue.put("<last>")
            assert queue.flush(10)
        assert queue.state.reason is None, "it is well again"
    put = [f"<{line}>" for line in lines] + ["<last>"] * len(does)
    got = device.written.decode().splitlines()
    told = [int(line.split()[1]) for line in got if line.startswith("lost ") and line.endswith(" !")]
    whole = [line for line in got if line in put]
    assert sum(told) == queue.state.lost == len(put) - len(whole)
    left = iter(put)
    assert all(line in left for line in whole), "in their order"


def test_lines_without_room_are_counted_and_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_queue, "MOST_LINES", 3)
    blocked = threading.Event()
    going_on = threading.Event()
    written: list[bytes] = []

    def write(_fd: int, data: bytes) -> int:
        blocked.set()
        going_on.wait(120)
        written.append(data)
        return len(data)

    monkeypatch.setattr("agent.daemon.log_queue.os.write", write)
    queue = LogQueue(99, lambda count, reason: f"lost {count}: {reason}")
    queue.put("line 0")
    assert blocked.wait(120)
    for number in range(1, 10):
        queue.put(f"line {number}")
    lost = queue.state.lost
    assert lost == 6, "one is being written, and three wait"
    assert "6 log lines" in (queue.state.reason or "")
    assert not queue.flush(0.01)
    going_on.set()
    assert queue.flush(10)
    queue.put("at last")
    assert queue.flush(10)
    assert f"lost {lost}: writing is blocked and the queue is full\n" in b"".join(written).decode()
    assert queue.state == log_queue.LogState(lost, None)


def test_a_line_that_is_larger_than_all_that_may_wait_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_queue, "MOST_BYTES", 100)
    device = Device([])
    monkeypatch.setattr("agent.daemon.log_queue.os.write", device.write)
    queue = LogQueue(99, lambda count, _: f"lost {count}")
    queue.put("x" * 101)
    queue.put("y")
    assert queue.flush(10)
    assert device.written == b"lost 1\ny\n"


def test_a_pipe_that_does_not_block_is_waited_for() -> None:
    out, into = os.pipe()
    os.set_blocking(into, False)
    with closing(os.fdopen(out, "rb")) as reader:
        queue = LogQueue(into, lambda *_: "lost")
        line = "x" * 1000
        for _ in range(200):  # more than a pipe holds
            queue.put(line)
        read = b"".join(reader.read(1001) for _ in range(200))
        assert queue.flush(10)
        os.close(into)
    assert (read, queue.state.lost) == ((line + "\n").encode() * 200, 0)


FORKED = """
import os, sys
from agent.daemon.log_queue import LogQueue
queue = LogQueue(2, lambda *_: "lost")
queue.put("before")
child = os.fork()
queue.put("child" if child == 0 else "parent")
queue.flush(5)
if child == 0:
    os._exit(0)
os.waitpid(child, 0)
"""
ENDED = """
import sys
from agent.daemon import logs
import structlog
logs.configure()
logs.take_standard_error()
for number in range(2000):
    structlog.get_logger("service").info("line", number=number)
if sys.argv[1] == "fatal":
    raise KeyError("nobody expected this")
"""


def test_a_process_that_was_forked_logs_what_is_its_own() -> None:
    done = subprocess.run([sys.executable, "-c", FORKED], stderr=subprocess.PIPE, text=True, check=True, timeout=240)
    assert sorted(done.stderr.split()) == ["before", "child", "parent"]


@pytest.mark.parametrize("how", ["normal", "fatal"])
def test_what_waits_is_written_when_the_process_ends(how: str, tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as log:
        done = subprocess.run([sys.executable, "-c", ENDED, how], stderr=log, check=False, timeout=240)
    lines = (tmp_path / "log").read_text().splitlines()
    assert [f"number={number}" in lines[number] for number in range(2000)] == [True] * 2000
    assert (done.returncode, len(lines) == 2000) == ((0, True) if how == "normal" else (1, False))
    assert how == "normal" or "KeyError" in lines[-1]


def test_what_is_printed_is_put_line_by_line() -> None:
    lines: list[str] = []
    stream = LogStream(lines.append)
    print("one", "and", file=stream, end=" ")
    print("more\ntwo\nthree", file=stream, end="")
    assert lines == ["one and more", "two"]
