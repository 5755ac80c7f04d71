"""Opening the outbox file: durable, shared between processes, with error messages for people."""

from __future__ import annotations

import enum
import errno
import fcntl
import os
import random
import sqlite3
import struct
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

from agent.outbox.sqlite import migrations
from agent.outbox.values import AlreadyRunningError, DamagedError, OlderOutboxError, OutboxError

if TYPE_CHECKING:
    from pathlib import Path

SQLITE_VERSION = sqlite3.sqlite_version
# How long to wait for a locked file, and how long if the process has to stop.
BUSY_DEADLINE_S = 10.0
STOPPING_DEADLINE_S = 1.0
CHECKPOINT_PAGES = 4_000
# A byte after those that SQLite locks. SQLite never uses the page at 1 GiB.
_OUR_BYTE = 0x40000000 + 1_024
# Every version of the file has one of these tables.
_OURS = {"deployments", "events"}
# Byte strings in every SQLite file: the header, and the schema pages.
_OF_SQLITE = (b"SQLite format 3\0", b"CREATE TABLE ", b"CREATE INDEX ")
# Python's message, without an error code, for a text column with invalid UTF-8.
_NO_TEXT = "Could not decode to UTF-8"


class _Patience:
    """How long all connections of this process wait for a locked file, in seconds. Read by several threads."""

    def __init__(self) -> None:
        self.seconds = BUSY_DEADLINE_S


_PATIENCE = _Patience()


def wait_for_locks(*, stopping: bool) -> None:
    """From now on wait for a locked file as long as usual or, if the process has to stop, for a second.

    This also shortens waits that have begun.
    """
    _PATIENCE.seconds = STOPPING_DEADLINE_S if stopping else BUSY_DEADLINE_S


class PatientConnection(sqlite3.Connection):
    """Waits for a locked file in small random steps.

    SQLite's busy handler is unfair: its sleeps grow, so a process that commits in a tight loop always wins. And it does
    not wait at all when two processes switch the journal mode at once.
    """

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        try:
            return super().execute(sql, parameters)
        except sqlite3.OperationalError as error:
            if self.in_transaction or not _is_busy(error):
                raise
        began = time.monotonic()
        while True:
            time.sleep(random.uniform(0.0002, 0.001))
            try:
                return super().execute(sql, parameters)
            except sqlite3.OperationalError as error:
                if not _is_busy(error) or time.monotonic() - began > _PATIENCE.seconds:
                    raise


def _is_busy(error: sqlite3.OperationalError) -> bool:
    # Some errors are raised by Python and have no code.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def open_outbox(path: Path) -> PatientConnection:
    """Open the file; create it if it does not exist. Raises :class:`OutboxError`, also if it needs an upgrade.

    The connection may be used by several threads, one at a time.
    """
    connection = _connection(path)
    try:
        version = migrations.version(connection)
        if version == 0:
            migrations.prepare_new_file(connection)
        if version == 0 or migrations.FIRST <= version <= migrations.VERSION:
            configure(connection)
            version = _migrated(connection)
    except sqlite3.Error as error:
        connection.close()
        raise in_words(error, path) from error
    if version != migrations.VERSION:
        connection.close()
        raise _of_another_version(path, version)
    return connection


def refuse_what_is_no_outbox(path: Path) -> None:
    """Raises :class:`OutboxError` for a file that never was an outbox: it must not be moved or written to.

    If an agent has run here before, its lock file exists beside the file. Then the file counts as a damaged outbox,
    whatever it contains. This process must not have the outbox open: see :func:`_create`.
    """
    try:
        if not path.is_file() or not path.stat().st_size:
            return
        known = path.with_name(path.name + ".lock").exists()
        if not known and not _has_something_of_sqlite(path):
            raise OutboxError(
                f"{path} is not an outbox: it is not a SQLite database; set [outbox] path to another file, or move "
                "this file away"
            )
        with closing(sqlite3.connect(f"file:{quote(os.fsencode(path))}?mode=ro", uri=True)) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except (OSError, sqlite3.Error):
        return  # opening the file reports the error
    if tables and not tables & _OURS:
        raise OutboxError(
            f"{path} is the database of another program (tables: {', '.join(sorted(map(str, tables))[:3])}); "
            "set [outbox] path to another file"
        )


def _has_something_of_sqlite(path: Path) -> bool:
    """Whether a damaged outbox is likely: parts of SQLite's format, or only zeros, as after a power failure."""
    zeros, before = True, b""
    with path.open("rb") as file:
        while piece := file.read(1024 * 1024):
            if any(each in before + piece for each in _OF_SQLITE):
                return True
            zeros = zeros and not piece.strip(b"\0")
            before = piece[-32:]
    return zeros


def configure(connection: sqlite3.Connection) -> None:
    """Apply the settings that the file does not store: among others, a commit is on the disk when it returns."""
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA journal_size_limit = 33554432")
    # A thousand deployments touch more pages than the default cache holds, and more than the pages after which a commit
    # writes the log back. With the default, each page would be written several times.
    connection.execute("PRAGMA cache_size = -8000")
    connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")


def _migrated(connection: sqlite3.Connection) -> int:
    """Create or migrate the tables in one transaction. A second process waits and then finds nothing to do."""
    if migrations.version(connection) < migrations.VERSION:
        connection.execute("BEGIN IMMEDIATE")
        try:
            migrations.migrate(connection)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
    return migrations.version(connection)


def _of_another_version(path: Path, version: int) -> OutboxError:
    if version > migrations.VERSION:
        return OutboxError(
            f"the outbox {path} was written by a newer hivel-agent (format version {version}; this version reads up to "
            f"{migrations.VERSION}); install the newer hivel-agent again"
        )
    if path.with_name(path.name + ".upgrading").exists() and RunLock(path).holder() is not None:
        return OlderOutboxError(
            f"the outbox {path} is being upgraded{_upgraded_so_far(path)}; try again when the upgrade is complete"
        )
    return OlderOutboxError(
        f"the outbox {path} was written by an older version; it is upgraded when hivel-agent run or once starts"
    )


def _upgraded_so_far(path: Path) -> str:
    try:
        percent = path.with_name(path.name + ".upgrading-progress").read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""  # just started, or about to end
    return f", {percent} %" if percent else ""


def _connection(path: Path) -> PatientConnection:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        _create(path)
        return sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, timeout=0, factory=PatientConnection
        )
    except (OSError, sqlite3.Error) as error:
        raise OutboxError(f"cannot open the outbox {path}: {error}; is [outbox] path correct and writable?") from error


def damaged(path: Path | str, why: object) -> DamagedError:
    """The error for a damaged file, with the same advice everywhere."""
    return DamagedError(
        f"the outbox {path} is damaged ({why}); when hivel-agent run or once starts, it moves the file aside and "
        "recovers what can be read"
    )


def in_words(error: sqlite3.Error, path: Path | str) -> OutboxError:
    """Convert SQLite's error to one with a message for people; :class:`DamagedError` if the file is broken."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte of an extended code is the primary code
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or _NO_TEXT in str(error):
        return damaged(path, error)
    if code == sqlite3.SQLITE_FULL:
        return OutboxError(f"there is no space left for the outbox {path} ({error}); free some space on its disk")
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return OutboxError(f"the outbox {path} cannot be written ({error}); check its owner, its folder and its disk")
    if code == sqlite3.SQLITE_IOERR:
        return OutboxError(
            f"the outbox {path} cannot be read or written ({error}); is its disk full, read-only or broken?"
        )
    return OutboxError(f"the outbox {path} cannot be used: {error}")


def _create(path: Path) -> None:
    """Create the file, readable only by its owner.

    Do not open an existing file here: closing it would silently release the POSIX locks of all connections of this
    process to it, and the next process that closes the database would delete the log.
    """
    if path.exists():
        return
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        return  # another process was faster


class Moved(enum.Enum):
    """What happened to the outbox file while the agent had it open."""

    DELETED = "deleted"
    REPLACED = "replaced by another file"


class RunLock:
    """Held by the one process that polls and delivers. The kernel releases it however the process ends.

    It makes claims safe without leases: only this process has rows in flight, and after a crash they are simply
    pending. The outbox file is locked too, because it may have other names (hard links).
    """

    def __init__(self, outbox: Path) -> None:
        self._outbox = outbox
        try:
            self._real = outbox.resolve()
        except (OSError, RuntimeError) as error:  # a symbolic link that points to itself
            raise OutboxError(f"cannot find the outbox {outbox}: {error}; check [outbox] path") from error
        self._path = self._real.with_name(self._real.name + ".lock")
        self._fd: int | None = None
        self._file: int | None = None

    def __enter__(self) -> Self:
        """Raises :class:`AlreadyRunningError` at once if another process holds the lock, or :class:`OutboxError`."""
        refuse_what_is_no_outbox(self._real)
        self._lock_name()
        try:
            self.follow()
        except AlreadyRunningError:
            self._release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._release()

    def follow(self) -> None:
        """Lock the file that has the name now. This process must not have the outbox open.

        Call it whenever the file may have been replaced. Raises :class:`AlreadyRunningError` if another agent works on
        the new file, and :class:`OutboxError`.
        """
        if self._fd is not None and not _has_name(self._fd, self._path):  # the lock file was deleted too
            before, self._fd = self._fd, None
            os.close(before)
            self._lock_name()
        if self._file is not None:
            os.close(self._file)
            self._file = None
        with suppress(OSError):  # missing or not writable: opening the outbox reports that
            self._file = os.open(self._real, os.O_RDWR | os.O_CLOEXEC)
        if self._file is not None and not _try_lock_file(self._file):
            raise AlreadyRunningError(
                f"another hivel-agent uses the file of the outbox {self._outbox} under another name, through a link; "
                "stop that agent first, or give this one its own [outbox] path"
            )

    def moved(self) -> Moved | None:
        """What happened to the name of the open outbox file; None if it still has it."""
        if self._file is None or _has_name(self._file, self._real):
            return None
        return Moved.REPLACED if self._real.exists() else Moved.DELETED

    def holder(self) -> int | None:
        """The process id of the current holder; None if the lock is free."""
        try:
            with self._path.open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except OSError:
                    text = file.read(20).strip()
                    return int(text) if text.isdigit() else -1
        except OSError:
            return None  # no lock file: no agent ever ran here
        return None

    def _lock_name(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
            fd = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise OutboxError(f"cannot open {self._path}: {error.strerror}; check [outbox] path") from error
        if not _try_lock(fd):
            holder = os.read(fd, 20).decode(errors="replace").strip()
            os.close(fd)
            raise AlreadyRunningError(
                f"another hivel-agent (process {holder or 'unknown'}) already uses the outbox {self._outbox}; "
                "stop it first, or give this one its own [outbox] path"
            )
        _write_down(fd, str(os.getpid()))
        self._fd = fd

    def _release(self) -> None:
        if self._fd is not None:
            _write_down(self._fd, "")
        for fd in (self._file, self._fd):
            if fd is not None:
                os.close(fd)
        self._fd = self._file = None


def _has_name(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except OSError:
        return False


def _try_lock_file(fd: int) -> bool:
    """Lock one byte that SQLite does not use (an open file description lock).

    If the file system does not support that, only the lock file protects the outbox.
    """
    wanted = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, _OUR_BYTE, 1, 0)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, wanted)
    except OSError as error:
        return error.errno not in (errno.EAGAIN, errno.EACCES)
    return True


def _write_down(fd: int, holder: str) -> None:
    """Write the process id for other processes. The lock works even if the disk is too full for that."""
    with suppress(OSError):
        os.ftruncate(fd, 0)
        os.write(fd, holder.encode())


def _try_lock(fd: int) -> bool:
    """Try a few times, because another process's :meth:`RunLock.holder` takes the lock for a moment."""
    for _ in range(20):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            time.sleep(0.01)
        else:
            return True
    return False
