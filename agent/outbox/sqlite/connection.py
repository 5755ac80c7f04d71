"""Opening the outbox file: durable, shared between processes, and with errors that people understand."""

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

BUSY_DEADLINE_S = 10.0
CHECKPOINT_PAGES = 4_000
# Behind the bytes of a database that SQLite itself locks (its page at 1 GiB is never used).
_OUR_BYTE = 0x40000000 + 1_024
# One of these tables is in each version's file.
_OURS = {"deployments", "events"}
# What is in a file of SQLite: at its beginning, and in the pages that describe its tables.
_OF_SQLITE = (b"SQLite format 3\0", b"CREATE TABLE ", b"CREATE INDEX ")
# Python's own words, without a code, for bytes in a column of text that were never written as text.
_NO_TEXT = "Could not decode to UTF-8"


class PatientConnection(sqlite3.Connection):
    """Waits for a file that is locked in small random steps.

    SQLite's own waiting is unfair: its sleeps grow, and a process that commits in a tight loop wins every race. Two
    that switch the journal at once it does not let wait at all.
    """

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        try:
            return super().execute(sql, parameters)
        except sqlite3.OperationalError as error:
            if self.in_transaction or not _is_busy(error):
                raise
        deadline = time.monotonic() + BUSY_DEADLINE_S
        while True:
            time.sleep(random.uniform(0.0002, 0.001))
            try:
                return super().execute(sql, parameters)
            except sqlite3.OperationalError as error:
                if not _is_busy(error) or time.monotonic() > deadline:
                    raise


def _is_busy(error: sqlite3.OperationalError) -> bool:
    # Some errors are Python's own and have no code.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def open_outbox(path: Path) -> PatientConnection:
    """Open the file, make it if there is none. Raises :class:`OutboxError`, also for one that has to be upgraded.

    The connection may be handed from thread to thread, one at a time.
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
    """Raises :class:`OutboxError` for a file that never was one: it is somebody's, and not to be moved or written to.

    Where an agent has worked before, its lock is beside the file: then that is damaged, whatever is in it. Nobody in
    this process may have the outbox open: see :func:`_create`.
    """
    try:
        if not path.is_file() or not path.stat().st_size:
            return
        known = path.with_name(path.name + ".lock").exists()
        if not known and not _has_something_of_sqlite(path):
            raise OutboxError(
                f"{path} is no outbox, and never was one: it has nothing of a database in it; "
                "give [outbox] path another name, or move the file away"
            )
        with closing(sqlite3.connect(f"file:{quote(os.fsencode(path))}?mode=ro", uri=True)) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except (OSError, sqlite3.Error):
        return  # who opens it says so in words
    if tables and not tables & _OURS:
        raise OutboxError(
            f"{path} is a database of another program (its tables: {', '.join(sorted(map(str, tables))[:3])}); "
            "give [outbox] path another name"
        )


def _has_something_of_sqlite(path: Path) -> bool:
    """As a damaged outbox still has; or it is full of zeros, as when the power failed."""
    zeros, before = True, b""
    with path.open("rb") as file:
        while piece := file.read(1024 * 1024):
            if any(each in before + piece for each in _OF_SQLITE):
                return True
            zeros = zeros and not piece.strip(b"\0")
            before = piece[-32:]
    return zeros


def configure(connection: sqlite3.Connection) -> None:
    """Set what is not stored in the file: a commit is on the disk before it returns."""
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA journal_size_limit = 33554432")
    # A thousand deployments touch more pages than fit by default into the cache, and more than those after which a
    # commit writes the log back: each would be written several times.
    connection.execute("PRAGMA cache_size = -8000")
    connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")


def _migrated(connection: sqlite3.Connection) -> int:
    """All of it in one transaction: a second process waits for it and then finds nothing to do."""
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
            f"the outbox {path} was written by a newer hivel-agent (its version {version}, "
            f"known here: {migrations.VERSION}); install that one again"
        )
    if path.with_name(path.name + ".upgrading").exists() and RunLock(path).holder() is not None:
        return OlderOutboxError(
            f"the outbox {path} is being upgraded{_upgraded_so_far(path)}; try again when that is done"
        )
    return OlderOutboxError(
        f"the outbox {path} was written by an older version; it is upgraded when hivel-agent run or once starts"
    )


def _upgraded_so_far(path: Path) -> str:
    try:
        percent = path.with_name(path.name + ".upgrading-progress").read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""  # it has just begun, or is about to end
    return f", {percent} %" if percent else ""


def _connection(path: Path) -> PatientConnection:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        _create(path)
        return sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, timeout=0, factory=PatientConnection
        )
    except (OSError, sqlite3.Error) as error:
        raise OutboxError(f"cannot open the outbox {path}: {error}; is [outbox] path right and writable?") from error


def in_words(error: sqlite3.Error, path: Path | str) -> OutboxError:
    """SQLite's error as one for people, and as :class:`DamagedError` where the file itself is broken."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the extended codes have the plain one in their low byte
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or _NO_TEXT in str(error):
        return DamagedError(
            f"the outbox {path} is damaged ({error}); when hivel-agent run or once starts, it moves the file aside "
            "and recovers what can be read"
        )
    if code == sqlite3.SQLITE_FULL:
        return OutboxError(f"there is no room for the outbox {path} ({error}); make room on its disk")
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return OutboxError(f"the outbox {path} cannot be written ({error}); check its owner, its folder and the disk")
    if code == sqlite3.SQLITE_IOERR:
        return OutboxError(
            f"the outbox {path} cannot be read or written ({error}); is its disk full, read-only or broken?"
        )
    return OutboxError(f"the outbox {path} cannot be used: {error}")


def _create(path: Path) -> None:
    """Make the file for its owner only.

    A file that exists must not be opened here: closing it again would silently drop the POSIX locks of every
    connection that this process has to it, and the next process to leave would delete the log under them.
    """
    if path.exists():
        return
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        return  # another process was faster


class Moved(enum.Enum):
    """What became of the outbox file's name while somebody worked on the file."""

    DELETED = "deleted"
    REPLACED = "replaced by another file"


class RunLock:
    """Held by the one process that polls and delivers; the kernel lets go of it however the process ends.

    It is what makes a claim safe without leases: rows in flight are known to their one deliverer, and after a
    crash they are simply pending. The file itself is locked as well, for it may have other names: links to it.
    """

    def __init__(self, outbox: Path) -> None:
        self._outbox = outbox
        try:
            self._real = outbox.resolve()
        except (OSError, RuntimeError) as error:  # a link that leads to itself
            raise OutboxError(f"cannot find the outbox {outbox}: {error}; is [outbox] path right?") from error
        self._path = self._real.with_name(self._real.name + ".lock")
        self._fd: int | None = None
        self._file: int | None = None

    def __enter__(self) -> Self:
        """Raises :class:`AlreadyRunningError` at once when another process holds it, or :class:`OutboxError`."""
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
        """Lock the file that has the name now. Nobody in this process may have the outbox open.

        To be called whenever another file may have got its place. Raises :class:`AlreadyRunningError` if another agent
        works on that one, and :class:`OutboxError`.
        """
        if self._fd is not None and not _has_name(self._fd, self._path):  # the lock's own name was deleted as well
            before, self._fd = self._fd, None
            os.close(before)
            self._lock_name()
        if self._file is not None:
            os.close(self._file)
            self._file = None
        with suppress(OSError):  # it is not there yet, or may not be written: who opens it says so in words
            self._file = os.open(self._real, os.O_RDWR | os.O_CLOEXEC)
        if self._file is not None and not _try_lock_file(self._file):
            raise AlreadyRunningError(
                f"another hivel-agent works on the file of the outbox {self._outbox} under another name: it is a link "
                "to the same file; stop that one first, or give this one its own [outbox] path"
            )

    def moved(self) -> Moved | None:
        """Whether the file that is worked on has lost its name."""
        if self._file is None or _has_name(self._file, self._real):
            return None
        return Moved.REPLACED if self._real.exists() else Moved.DELETED

    def holder(self) -> int | None:
        """The process id of who holds it now, None when nobody does."""
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
            raise OutboxError(f"cannot open {self._path}: {error.strerror}; is [outbox] path right?") from error
        if not _try_lock(fd):
            holder = os.read(fd, 20).decode(errors="replace").strip()
            os.close(fd)
            raise AlreadyRunningError(
                f"another hivel-agent (process {holder or 'unknown'}) already works on the outbox {self._outbox}; "
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
    """A lock of the open file at a byte that SQLite has no use for; where that cannot be had, the name has to do."""
    wanted = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, _OUR_BYTE, 1, 0)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, wanted)
    except OSError as error:
        return error.errno not in (errno.EAGAIN, errno.EACCES)
    return True


def _write_down(fd: int, holder: str) -> None:
    """For others to read; where there is no room for it, the lock holds all the same."""
    with suppress(OSError):
        os.ftruncate(fd, 0)
        os.write(fd, holder.encode())


def _try_lock(fd: int) -> bool:
    """A few tries, because :meth:`RunLock.holder` of another process takes the lock for a moment."""
    for _ in range(20):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            time.sleep(0.01)
        else:
            return True
    return False
