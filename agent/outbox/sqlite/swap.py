"""Replacing the outbox file while other processes, such as ``emit``, may open it at any moment.

A database is three files that SQLite finds by name: the file, its log (``-wal``) and the log's index (``-shm``). A
process that has the old database open while a new one gets its name would write to the log of the new one. So the old
file is replaced only while no process has it open, and none can open it until the new one has its name.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import struct
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# The bytes that SQLite locks, from its file format: opening a database locks the first, and a connection in WAL mode
# holds a shared lock on the last 510.
_PENDING = 0x40000000
_ALL = 512
# Seconds for which new connections are kept out at most; `emit` retries for five seconds.
_SHUT_S = 1.5
_OPEN_S = 0.5
# A process that opened the old file just before the replacement, and has not locked it yet, gives up within this time.
HOLD_S = 1.0
LOGS = ("-wal", "-shm")


class InUseError(Exception):
    """Another process keeps the file open; ``pid`` is its process id if known."""

    def __init__(self, pid: int) -> None:
        super().__init__(f"process {pid}" if pid > 0 else "another process")


def real(path: Path) -> Path:
    """The file that a symbolic link leads to: SQLite keeps the logs beside the real file."""
    return path.resolve() if path.is_symlink() else path


def beside(path: Path, suffix: str) -> Path:
    """The path with a suffix appended to its name."""
    return path.with_name(path.name + suffix)


@contextmanager
def alone_with(path: Path, patience_s: float, tick: Callable[[], None] = lambda: None) -> Iterator[None]:
    """A context in which no other connection, also of this process, has the database open or can open it.

    ``tick`` is called while it waits. Raises :class:`InUseError` after ``patience_s``, and :class:`OSError`.
    """
    file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        _shut(file, time.monotonic() + patience_s, tick)
        yield
    finally:
        os.close(file)


def open_alone(path: Path, mode: Literal["ro", "rw"]) -> sqlite3.Connection:
    """Open the database within :func:`alone_with`, without taking locks. Mode ``ro`` changes nothing."""
    uri = f"{path.absolute().as_uri()}?mode={mode}&vfs=unix-none"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None)
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # with exclusive locking the log's index needs no file
    return connection


def put_in_place(new: Path, path: Path, tick: Callable[[], None] = lambda: None) -> None:
    """Rename a complete database with an empty log over the other one, within :func:`alone_with` for that one.

    No process can open it before the new name is on the disk, so nothing that is stored in it is lost. ``tick`` is
    called while it waits.
    """
    for suffix in LOGS:
        beside(new, suffix).unlink(missing_ok=True)
        beside(path, suffix).unlink(missing_ok=True)
    file = os.open(new, os.O_RDWR | os.O_CLOEXEC)
    try:
        _lock(file, _ALL)
        os.fsync(file)
        new.replace(path)
        sync_folder(path)
    finally:
        os.close(file)
    until = time.monotonic() + HOLD_S
    while (left := until - time.monotonic()) > 0:
        tick()
        time.sleep(min(left, 0.25))


def sync(path: Path) -> None:
    """Sync the file to the disk."""
    file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def sync_folder(path: Path) -> None:
    """Sync the folder of this file, with its names, to the disk."""
    with suppress(PermissionError):  # a folder that is writable but not readable
        folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _shut(file: int, deadline: float, tick: Callable[[], None]) -> None:
    """Keep new connections out and wait until the others have closed. Let new ones in from time to time."""
    while True:
        until = time.monotonic() + _SHUT_S
        if _wait_for(file, 1, until, tick) and _wait_for(file, _ALL, until, tick):
            return
        if time.monotonic() > deadline:
            raise InUseError(_holder(file))
        _let_in(file)
        tick()
        time.sleep(_OPEN_S)


def _wait_for(file: int, length: int, until: float, tick: Callable[[], None]) -> bool:
    while not _lock(file, length):
        if time.monotonic() > until:
            return False
        tick()
        time.sleep(0.0005)
    return True


def _lock(file: int, length: int) -> bool:
    """Lock the open file description, not the process: closing another descriptor does not release the lock."""
    try:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, _flock(fcntl.F_WRLCK, length))
    except (BlockingIOError, PermissionError):
        return False
    return True


def _let_in(file: int) -> None:
    fcntl.fcntl(file, fcntl.F_OFD_SETLK, _flock(fcntl.F_UNLCK, _ALL))


def _holder(file: int) -> int:
    """The process that has it open; 0 if unknown."""
    found = fcntl.fcntl(file, fcntl.F_OFD_GETLK, _flock(fcntl.F_WRLCK, _ALL))
    *_, pid = struct.unpack("hhqqi4x", found)
    return int(pid)


def _flock(kind: int, length: int) -> bytes:
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, _PENDING, length, 0)
