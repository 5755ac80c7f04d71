"""The agent on a machine whose clock is wrong: ``python -m tests.postgresql.wrong_clock MILLISECONDS run …``."""

from __future__ import annotations

import sys
import time

from agent.main import main
from agent.model.times import Clock

if __name__ == "__main__":
    AHEAD_MS = int(sys.argv.pop(1))
    Clock.now_ms = lambda _: time.time_ns() // 1_000_000 + AHEAD_MS  # type: ignore[method-assign]
    main()
