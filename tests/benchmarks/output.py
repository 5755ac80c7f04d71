"""What the benchmarks print: where it was measured, tables, and how each target was met."""

from __future__ import annotations

import os
import platform
import sqlite3
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def say(text: str = "") -> None:
    """A line, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def machine(*distributions: str) -> None:
    """Where this is measured, and with which versions."""
    versions = ", ".join(f"{name} {version(name)}" for name in distributions)
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    say(f"{os.cpu_count()} cores, load {load}, {platform.system()} {platform.machine()}")
    say(f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {versions}")


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """The first column to the left, the others, which are numbers or short words, to the right."""
    widths = [max(len(row[column]) for row in (headings, *rows)) for column in range(len(headings))]
    for number, row in enumerate((headings, *rows)):
        cells = [
            f"{row[0]:<{widths[0]}}",
            *(f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True)),
        ]
        say("  ".join(cells).rstrip())
        if not number:
            say("-" * (sum(widths) + 2 * len(widths) - 2))


def target(what: str, value: float, *, at_least: float | None = None, below: float | None = None) -> None:
    """A line that says whether a target was met; exactly one of ``at_least`` and ``below``."""
    if at_least is not None:
        wanted, reached = f"at least {at_least:g}", value >= at_least
    else:
        assert below is not None
        wanted, reached = f"under {below:g}", value < below
    say(f"{'PASS' if reached else 'MISSED'}  {what}: {value:.2f}, target {wanted}")
