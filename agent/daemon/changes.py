"""Detects changes of files by their metadata, because reading them every second would be too expensive."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# Two changes within one tick of the file system's clock look like one change. So read the files after this many checks
# anyway.
BELIEVED = 4


class Changes:
    """Detects whether any of these files or folders changed since the last read. They need not exist."""

    def __init__(self, *paths: Path) -> None:
        self._paths = paths
        self._glanced: list[tuple[int, int] | None] | None = None
        self._looked: list[tuple[int, int] | None] | None = None
        self._believed = 0

    def noticed(self) -> bool:
        """True when the files should be read: something changed, or enough checks found no change."""
        self._glanced = [_state(path) for path in self._paths]
        if self._glanced == self._looked and self._believed < BELIEVED:
            self._believed += 1
            return False
        return True

    def looked(self) -> None:
        """Call this after the files were read completely. Otherwise ``noticed`` asks for it again."""
        self._looked, self._believed = self._glanced, 0


def _state(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
