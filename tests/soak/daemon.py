"""The daemon as systemd runs it: started again however it ended, and timed until it says that it is ready."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from tests.integration.support import Agent
    from tests.soak.memory import Bound

PATIENCE_S = 60.0


class Daemon:
    """``hivel-agent run``, one process after another."""

    def __init__(self, agent: Agent, memory: Bound | None = None) -> None:
        self._agent = agent
        self._memory = memory
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._address = agent.folder / "notify"
        self._process: subprocess.Popen[bytes] | None = None
        self.starts = 0
        self.slowest_start_s = 0.0
        self.largest_kb = 0

    def __enter__(self) -> Self:
        self._socket.bind(str(self._address))
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._socket.close()

    def start(self) -> None:
        """Start it and wait until it is ready."""
        self._forget_messages()
        begun = time.monotonic()
        self.launch()
        if not self._wait_for(b"READY=1"):
            raise RuntimeError(f"it ended with {self.wait()} instead of getting ready: {self._last_words()}")
        self.slowest_start_s = max(self.slowest_start_s, time.monotonic() - begun)

    def launch(self) -> None:
        """Start it and do not wait."""
        self.starts += 1
        with (self._agent.folder / "agent.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "agent", "run", "--config", str(self._agent.config)],
                stdout=log, stderr=log, env=self._agent.environment() | {"NOTIFY_SOCKET": str(self._address)},
            )  # fmt: skip
        if self._memory is not None:
            self._memory.add(self._process.pid)

    def ensure_running(self) -> None:
        """Start it if it does not run."""
        if self._process is None or self._process.poll() is not None:
            self.start()

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def signal(self, number: int) -> None:
        """Send it a signal and do not wait for what comes of it."""
        assert self._process is not None
        self._note_size()
        self._process.send_signal(number)

    def stop(self) -> int:
        """End it as systemd does; returns its exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """End it as a crash does."""
        self.signal(signal.SIGKILL)
        self.wait()

    def wait(self) -> int:
        """Wait for its end; returns the exit code."""
        assert self._process is not None
        return self._process.wait(PATIENCE_S)

    def reload(self) -> bool:
        """Let it read its configuration anew; False when it ended instead."""
        self._forget_messages()
        self.signal(signal.SIGHUP)
        return self._wait_for(b"READY=1")

    def _wait_for(self, message: bytes) -> bool:
        deadline = time.monotonic() + PATIENCE_S
        self._socket.settimeout(0.1)
        while time.monotonic() < deadline:
            try:
                if message in self._socket.recv(4096).split(b"\n"):
                    return True
            except TimeoutError:
                if not self.runs:
                    return False
        raise TimeoutError(f"the daemon was not ready after {PATIENCE_S:g} s")

    def _last_words(self) -> str:
        return (self._agent.folder / "agent.log").read_text()[-500:]

    def _forget_messages(self) -> None:
        self._socket.setblocking(False)
        while True:
            try:
                self._socket.recv(4096)
            except BlockingIOError:
                return

    def _note_size(self) -> None:
        assert self._process is not None
        try:
            pages = Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]
        except (OSError, IndexError):
            return  # it has ended already
        self.largest_kb = max(self.largest_kb, int(pages) * os.sysconf("SC_PAGE_SIZE") // 1000)
