"""A folder into which reports are moved, for whoever shares nothing but a directory with the agent."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import structlog

from agent.hook.report import MOST_BYTES, ReportError, decode

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agent.hook.takeup import Taken, TakeUp
    from agent.outbox.store import Outbox

log = structlog.get_logger("hook")

REJECTED = "rejected"
AT_ONCE = 100
# A file that is written in place may be half a report for a moment.
UNFINISHED_MS = 5_000


class Spool:
    """Takes up ``*.json`` files, once each; wrong ones go to the folder ``rejected`` with the reason beside them."""

    def __init__(self, folder: Path, outbox: Outbox, takeup: TakeUp) -> None:
        self._folder = folder
        self._outbox = outbox
        self._takeup = takeup

    def take(self) -> list[Taken]:
        """Make events of what lies there, oldest first. A crash in between takes a file up twice, to the same event.

        Raises :class:`agent.outbox.connection.OutboxError`; the files then stay.
        """
        taken = []
        for path, changed_ms in self._files():
            try:
                taken.append(self._takeup.take(decode(_read(path)), changed_ms))
            except FileNotFoundError:
                continue
            except (ReportError, OSError) as error:
                if self._outbox.clock.now_ms() - changed_ms >= UNFINISHED_MS:
                    self._set_aside(path, error)
                continue
            path.unlink(missing_ok=True)
        return taken

    def _files(self) -> Iterator[tuple[Path, int]]:
        try:
            with os.scandir(self._folder) as entries:
                names = [entry.name for entry in entries if entry.name.endswith(".json") and entry.name[0] != "."]
        except OSError:
            return  # there is no such folder: nobody uses it
        found = []
        for name in names:
            try:
                found.append((self._folder / name, (self._folder / name).lstat().st_mtime_ns // 1_000_000))
            except OSError:
                continue
        yield from sorted(found, key=lambda each: (each[1], each[0].name))[:AT_ONCE]

    def _set_aside(self, path: Path, error: Exception) -> None:
        """Out of the way, so that it is not met again every second."""
        log.error("report is wrong", file=str(path), reason=str(error))
        rejected = self._folder / REJECTED
        try:
            rejected.mkdir(mode=0o750, exist_ok=True)
            path.replace(rejected / path.name)
            (rejected / f"{path.name}.reason").write_text(f"{error}\n", encoding="utf-8")
        except OSError as problem:
            log.error("report cannot be set aside", file=str(path), reason=str(problem))


def _read(path: Path) -> bytes:
    """Whoever may write into the folder must not make the agent read something else, or wait."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ReportError("this is no plain file")
        return file.read(MOST_BYTES + 1)
