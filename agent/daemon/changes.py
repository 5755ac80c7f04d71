"""A glance at files instead of a look into them: mostly there is nothing new, and this is asked every second."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# So many glances without a change are believed; two changes within a tick of the file system's clock look like one.
BELIEVED = 4


class Changes:
    """Whether any of these files or folders was changed since the last look; they need not exist."""

    def __init__(self, *paths: Path) -> None:
        self._paths = paths
        self._glanced: list[tuple[int, int] | None] | None = None
        self._looked: list[tuple[int, int] | None] | None = None
        self._believed = 0

    def noticed(self) -> bool:
        """True when it is time to look: something changed, or was believed not to have for long enough."""
        self._glanced = [_state(path) for path in self._paths]
        if self._glanced == self._looked and self._believed < BELIEVED:
            self._believed += 1
            return False
        return True

    def looked(self) -> None:
        """The look that was asked for is over, and everything was found; without this it is asked for again."""
        self._looked, self._believed = self._glanced, 0


def _state(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
