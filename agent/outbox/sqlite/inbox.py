"""Storing a report quickly from another process: the part of the outbox that ``emit`` needs.

It only opens an existing outbox and never creates or migrates one. The file would belong to the user of the build, and
the libraries for it load slowly.
"""

from __future__ import annotations

import os
import sqlite3
import time

# The schema version that introduced the table.
REPORTS_SINCE = 3
# From this schema version on, a report may say which of its fields a person wrote.
FACTS_SINCE = 6


class NoPlaceError(Exception):
    """The outbox accepts no reports; the message says why."""


def add_report(path: str, body: str, patience_s: float, max_size: int = 0) -> None:
    """Durable when it returns. Raises :class:`NoPlaceError` and :class:`sqlite3.Error`.

    ``patience_s``: seconds to wait while other processes write, open or close the file. ``max_size``: limit of the
    outbox in bytes; 0: none.
    """
    deadline = time.monotonic() + patience_s
    for _ in range(3):
        identity = os.stat(path).st_ino  # noqa: PTH116 - pathlib takes time to import
        while not _add(path, body, max_size, last_try=time.monotonic() > deadline):
            # Small equal steps, because SQLite's sleeps grow and lose against a process that commits in a loop.
            time.sleep(0.001)
        if os.stat(path).st_ino == identity:  # noqa: PTH116
            return
        # The file was found damaged and moved away meanwhile; the report may exist only in the old one.
    raise NoPlaceError("the file is replaced repeatedly")


def _add(path: str, body: str, max_size: int, *, last_try: bool) -> bool:
    """False if another process has the file locked now."""
    name = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    connection = sqlite3.connect(f"file:{name}?mode=rw", uri=True, isolation_level=None, timeout=0)
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version < REPORTS_SINCE:
            raise NoPlaceError("the file has the format of an older version; start the agent once to upgrade it")
        if max_size and _taken(connection) >= max_size:
            raise NoPlaceError("the outbox is full: [outbox] max_size is reached")
        connection.execute("PRAGMA synchronous = FULL")
        # A running agent writes the log back itself. A process that a build waits for should not do that.
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        if version < FACTS_SINCE:
            body = _as_it_was(body)
        connection.execute("INSERT INTO reports (received_at, body) VALUES (?, ?)", (_now_ms(), body))
    except sqlite3.OperationalError as error:
        if last_try or error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
            raise
        return False
    finally:
        connection.close()
    return True


def _as_it_was(body: str) -> str:
    """The report without fields that older agents reject: during an upgrade an older agent may read it."""
    import json  # noqa: PLC0415 - once in the life of an outbox

    report = json.loads(body)
    report.pop("given", None)
    return json.dumps(report, ensure_ascii=False)


def _taken(connection: sqlite3.Connection) -> int:
    """Bytes used by data, without free pages; the same as ``size`` of the outbox."""
    pages, free, page = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * page)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
