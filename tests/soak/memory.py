"""A bound on the memory of a process and its children, as ``MemoryMax`` of a unit sets it; root is needed."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# Where control groups are, by their version: the folder, the file of the bound, and the file of what was taken at most.
_VERSIONS = (
    ("/sys/fs/cgroup", "memory.max", "memory.peak"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.max_usage_in_bytes"),
)


class Bound:
    """A control group with a bound."""

    def __init__(self, folder: Path, peak: str) -> None:
        self._folder = folder
        self._peak = peak

    def add(self, process: int) -> None:
        """It counts from now on, and is killed by the system when it takes more."""
        (self._folder / "cgroup.procs").write_text(str(process))

    def peak_kb(self) -> int:
        """The most that was taken at once, files in the page cache included; 0: the system does not tell."""
        with suppress(OSError):
            return int((self._folder / self._peak).read_text()) // 1000
        return 0


@contextmanager
def bounded(most_bytes: int) -> Iterator[Bound | None]:
    """None: this system or user may not make such a group."""
    for parent, limit, peak in _VERSIONS:
        folder = Path(parent) / f"hivel-soak-{os.getpid()}"
        if not (Path(parent) / "cgroup.procs").exists():
            continue
        try:
            folder.mkdir()
            (folder / limit).write_text(str(most_bytes))
        except OSError:
            with suppress(OSError):
                folder.rmdir()
            continue
        try:
            yield Bound(folder, peak)
        finally:
            with suppress(OSError):  # somebody is in it still
                folder.rmdir()
        return
    yield None
