"""The console script. ``emit`` starts like a shell tool, everything else through ``cli``."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def main() -> NoReturn:
    """``hivel-agent [--config FILE] VERB …``"""
    arguments = sys.argv[1:]
    config = arguments[:2] if arguments[:1] == ["--config"] else []
    if arguments[len(config) : len(config) + 1] == ["emit"]:
        from agent.sources.reports.emit import main as emit  # noqa: PLC0415

        emit([*config, *arguments[len(config) + 1 :]])
    from agent.cli.main import main as cli  # noqa: PLC0415

    cli()
