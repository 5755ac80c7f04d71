"""The output of the demo in README is what the demo prints."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def lines(text: str) -> list[str]:
    """Without borders and empty lines; a port is different each time."""
    kept = (re.sub(r"('127\.0\.0\.1', )\d+", r"\1PORT", line.rstrip()) for line in text.splitlines())
    return [line for line in kept if line and line[0] not in "┏┡└"]


def test_readme_shows_what_the_demo_prints() -> None:
    shown = README.partition("```text\n$ make demo\n")[2].partition("```")[0]
    environment = {"PATH": os.environ["PATH"], "COLUMNS": "100", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, "-m", "agent", "demo"],
        capture_output=True, text=True, encoding="utf-8", timeout=240, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert lines(done.stdout) == lines(shown)
