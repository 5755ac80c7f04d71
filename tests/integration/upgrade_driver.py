"""A process that upgrades an outbox: ``FILE [KILLED_AT]``.

It prints how many seconds it took, how many of them on a processor, the most memory, and the longest time without a
word of progress. ``KILLED_AT``: it kills itself when so many percent are done.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from pathlib import Path

import msgspec

from agent.model.times import Clock
from agent.outbox.sqlite.upgrade import upgrade
from tests.integration.older import POLLED


def _most_memory_kb() -> int:
    """Of this program alone: what getrusage says begins with the process that started it."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def main() -> None:
    """Upgrade."""
    killed_at = int(sys.argv[2]) if len(sys.argv) > 2 else None
    began = last = time.monotonic()
    silence = 0.0

    def progress(percent: int) -> None:
        nonlocal last, silence
        silence, last = max(silence, time.monotonic() - last), time.monotonic()
        if killed_at is not None and percent >= killed_at:
            os.kill(os.getpid(), signal.SIGKILL)

    done = upgrade(Path(sys.argv[1]), Clock(), POLLED, progress)
    said = {
        "events": None if done is None else done.events,
        "kept": done is not None and done.kept is not None,
        "seconds": time.monotonic() - began,
        "cpu_s": sum(resource.getrusage(resource.RUSAGE_SELF)[:2]),
        "memory_mb": _most_memory_kb() // 1024,
        "silence_s": max(silence, time.monotonic() - last),
    }
    sys.stdout.write(msgspec.json.encode(said).decode() + "\n")


if __name__ == "__main__":
    main()
