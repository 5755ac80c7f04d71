"""A verb on a terminal: a real one, whose user waits for a question and answers it."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.integration.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class Terminal:
    """``with Terminal("init", env=…) as terminal: terminal.answer("Jenkins address", "http://…")``.

    ``program``: what the arguments are for, if it is not the agent of this checkout.

    ``shown`` is everything that the terminal showed, with ends of lines as ``\\n``.
    """

    def __init__(
        self, *arguments: str, env: Mapping[str, str], program: Sequence[str] = (sys.executable, "-m", "agent")
    ) -> None:
        self._leader, follower = pty.openpty()
        termios.tcsetwinsize(follower, (50, 120))
        self.process = subprocess.Popen(
            [*program, *arguments],
            stdin=follower, stdout=follower, stderr=follower, start_new_session=True,
            env={**env, "TERM": "xterm", "COLUMNS": "120", "LINES": "50"},
        )  # fmt: skip
        os.close(follower)
        self.shown = ""
        self._read_to = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._leader)

    def answer(self, question: str, text: str) -> None:
        """Wait for a question that contains this, and type the answer and Enter."""
        self.wait_for(question)
        os.write(self._leader, text.encode() + b"\n")

    def wait_for(self, question: str) -> None:
        """Wait until it is shown, after everything that was waited for before, and the cursor stands behind it."""
        deadline = time.monotonic() + 120
        while (place := self.shown.find(question, self._read_to)) < 0 or not self.shown.endswith(": "):
            assert time.monotonic() < deadline and self._read(), f"no {question!r} in:\n{self.shown}"
        self._read_to = place + len(question)

    def interrupt(self) -> None:
        """Ctrl-C, once the process sleeps in its read: Python loses a signal that comes just before it."""
        wait_until(self._sleeps, "the process waits for the answer")
        os.killpg(self.process.pid, signal.SIGINT)

    def _sleeps(self) -> bool:
        stat = Path(f"/proc/{self.process.pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] == "S"

    def end_of_input(self) -> None:
        """Ctrl-D."""
        os.write(self._leader, b"\x04")

    def end(self) -> int:
        """Wait for the end of the process; its exit code."""
        while self._read():
            pass
        return self.process.wait(120)

    def _read(self) -> bool:
        ready, _, _ = select.select([self._leader], [], [], 120)
        try:
            data = os.read(self._leader, 65536) if ready else b""
        except OSError:  # nobody has the other side open any more
            return False
        self.shown += COLOURS.sub("", data.decode().replace("\r\n", "\n"))
        return bool(data)
