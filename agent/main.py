"""The console script. ``emit`` starts without loading the rest; all other commands start through ``cli``."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from agent.cli.direct import HivelDirect


def main() -> NoReturn:
    """``hivel-agent [--config FILE] VERB …``"""
    _complete_standard_streams()
    arguments = sys.argv[1:]
    config = arguments[:2] if arguments[:1] == ["--config"] else []
    verb = arguments[len(config) : len(config) + 1]
    if verb == ["emit"]:
        from agent.sources.reports.emit import main as emit  # noqa: PLC0415

        emit([*config, *arguments[len(config) + 1 :]], direct)
    if verb == ["run"]:
        _mind_signals()
    try:
        from agent.cli.main import main as cli  # noqa: PLC0415

        cli()
    except KeyboardInterrupt:  # while modules were loaded; later the commands handle it
        sys.exit(130)


def direct(url: str) -> HivelDirect:
    """Hivel as the receiver of ``emit --direct``, which takes all modules of the delivery."""
    try:
        from agent.cli.direct import HivelDirect  # noqa: PLC0415
    except ModuleNotFoundError as error:
        words = f"--direct requires the complete installation; {error.name} is missing"
        raise RuntimeError(words) from None
    return HivelDirect(url)


def _complete_standard_streams() -> None:
    """Open closed standard streams, so that no file that is opened later gets their numbers."""
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest free number, which is this one
            setattr(sys, name, open(fd, mode, closefd=False))  # noqa: SIM115 - for as long as the process lives


def _mind_signals() -> None:
    """End quietly on signals while modules are loaded, which takes half a second.

    The daemon replaces these handlers.
    """
    import signal  # noqa: PLC0415

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
