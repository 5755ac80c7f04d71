"""What is printed: a line for each step, with what was seen and the time that it took."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def say(text: str, end: str = "\n") -> None:
    sys.stdout.write(text + end)
    sys.stdout.flush()


def step(title: str, run: Callable[[], str]) -> None:
    """Do it, and say what was seen."""
    begun = time.monotonic()
    say(f"  {title} … ", end="")
    seen = run()
    say(f"{seen} ({time.monotonic() - begun:.1f} s)")
