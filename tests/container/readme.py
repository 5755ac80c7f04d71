"""What the installation page tells an administrator to type."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.container.machine import StoryError

if TYPE_CHECKING:
    from pathlib import Path


def commands(readme: Path, heading: str) -> str:
    """The ``sh`` blocks below a heading, up to the next heading of the same or a higher level, as one script."""
    level = 0
    script: list[str] = []
    in_block = False
    for line in readme.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            in_block = level > 0 and line == "```sh"
        elif in_block:
            script.append(line)
        elif found := re.match(r"(#+) (?:\d+\. )?(.+)$", line):
            if found[2] == heading:
                level = len(found[1])
            elif len(found[1]) <= level:
                break
    if not script:
        raise StoryError(f"{readme.name} has no commands below the heading {heading!r}")
    return "\n".join(script)
