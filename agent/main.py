"""The console script. ``emit`` starts like a shell tool, everything else through ``cli``."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def main() -> NoReturn:
    """``hivel-agent [--config FILE] VERB …``"""
    _complete_standard_streams()
    arguments = sys.argv[1:]
    config = arguments[:2] if arguments[:1] == ["--config"] else []
    verb = arguments[len(config) : len(config) + 1]
    if verb == ["emit"]:
        from agent.sources.reports.emit import main as emit  # noqa: PLC0415

        emit([*config, *arguments[len(config) + 1 :]])
    if verb == ["run"]:
        _mind_signals()
    try:
        from agent.cli.main import main as cli  # noqa: PLC0415

        cli()
    except KeyboardInterrupt:  # while it was loaded; later the verbs know what to do
        sys.exit(130)


def _complete_standard_streams() -> None:
    """Whoever starts it with one of them closed: no file that is opened later may be taken for it."""
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
            setattr(sys, name, open(fd, mode, closefd=False))  # noqa: SIM115 - for as long as the process lives


def _mind_signals() -> None:
    """Until the daemon listens to them: it takes half a second to load, and nothing has begun before."""
    import signal  # noqa: PLC0415

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
