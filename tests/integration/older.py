"""Outbox files of older versions, and what older versions of `emit` do to them."""

from __future__ import annotations

import gzip
import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path(__file__).parents[1] / "data" / "outboxes"
VERSIONS = (1, 2, 3, 4, 5)
POLLED = ("main", "eu:2")
EVENT = (
    '{"deployment_id":"%s","event_type":"completed","status":"success","repo_url":"https://github.example.test/acme/shop",'
    '"commit_hash":"1f0c0f8f6c1f0c0f8f6c1f0c0f8f6c1f0c0f8f6c","environment":"production",'
    '"start_time":"2026-11-23T12:00:00.000Z","end_time":"2026-11-23T12:05:00.000Z","branch":"main","build_number":"%d",'
    '"logs_url":"https://jenkins.example.test/job/deploy/job/shop-%d/%d/"}'
)
SOURCE = (
    '{"controller":"main","job":"deploy/shop-%d","number":%d,'
    '"url":"https://jenkins.example.test/job/deploy/job/shop-%d/%d/","result":"SUCCESS","started_at":1795435200000,'
    '"ended_at":1795435500000,"parameters":{"ENVIRONMENT":"production"},"checkouts":[{"remote_urls":'
    '["https://github.example.test/acme/shop"],"branches":["refs/remotes/origin/main"],'
    '"commit":"1f0c0f8f6c1f0c0f8f6c1f0c0f8f6c1f0c0f8f6c"}],"change_messages":["Merge pull request #7 from acme/fix"]}'
)


class Said(msgspec.Struct, frozen=True):
    """What a poll (``final``: a build) or a build itself (``report``: fields) said ``at`` that time (UTC ms)."""

    at: int
    final: dict[str, Any] | None = None
    report: dict[str, Any] | None = None


class Story(msgspec.Struct, frozen=True):
    """What was said until ``now``."""

    now: int
    said: list[Said]


def unpacked(folder: Path, version: int = 5) -> Path:
    """An outbox of that version."""
    path = folder / "outbox.db"
    path.write_bytes(gzip.decompress((FOLDER / f"v{version}.db.gz").read_bytes()))
    return path


def story(version: int = 5) -> Story:
    """What was said when the file of that version was made."""
    return msgspec.json.decode(gzip.decompress((FOLDER / f"v{version}.said.json.gz").read_bytes()), type=Story)


def filled(folder: Path, rows: int, *, jobs: int = 500) -> Path:
    """An outbox of version 5 with so many events: one in a hundred is pending, all others were delivered."""
    path = unpacked(folder)
    with closing(sqlite3.connect(path)) as connection:
        for table in ("events", "attempts", "reports", "jobs", "pruned"):
            connection.execute(f"DELETE FROM {table}")
        connection.executemany(
            "INSERT INTO jobs VALUES ('main', ?, ?, 1, 1795435200000, 1795435200000)",
            ((f"deploy/shop-{job}", rows // jobs + 2) for job in range(jobs)),
        )
        connection.executemany(
            "INSERT INTO events (id, deployment_id, state, payload, source, started_at, created_at, next_attempt_at,"
            " attempts, settled_at) VALUES (?, ?, ?, ?, ?, 1795435200000, ?, 1795435515000, 1, ?)",
            _rows(rows, jobs),
        )
        connection.execute(
            "INSERT INTO attempts (event_id, at, duration_ms, http_status, verdict, answer)"
            " SELECT id, created_at, 12, 200, 'delivered', '{}' FROM events WHERE state = 'delivered'"
        )
        connection.executemany(
            "INSERT INTO pruned VALUES (?, 1795435200000, 20000)",
            ((n.to_bytes(12, "big"),) for n in range(rows // 2)),
        )
        connection.execute("UPDATE counts SET n = (SELECT count(*) FROM events WHERE state = 'delivered')"
                           " WHERE state = 'delivered'")  # fmt: skip
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return path


def _rows(rows: int, jobs: int) -> Iterator[tuple[object, ...]]:
    for n in range(1, rows + 1):
        job, number = n % jobs, n // jobs + 1
        name = f"main:deploy/shop-{job}#{number}"
        pending = n % 100 == 0
        source = SOURCE % (job, number, job, number) if pending else None
        created_at = 1_795_435_515_000 + n
        state, settled_at = ("pending", None) if pending else ("delivered", created_at + 100)
        yield n, name, state, EVENT % (name, number, job, number), source, created_at, settled_at


def contents(path: Path) -> dict[str, list[Any]]:
    """All rows of all tables, but for when the migrations were applied."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        found = {name: connection.execute(f"SELECT * FROM {name}").fetchall() for (name,) in tables}
        found.pop("_sqlite_migrations", None)
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        found["version"] = connection.execute("PRAGMA user_version").fetchall()
    return found


def older_add_report(path: str, body: str, patience_s: float) -> None:
    """As `emit` of versions 3 to 5 stores a report, line by line."""
    deadline = time.monotonic() + patience_s
    for _ in range(3):
        identity = os.stat(path).st_ino  # noqa: PTH116
        while not _older_add(path, body, last_try=time.monotonic() > deadline):
            time.sleep(0.001)
        if os.stat(path).st_ino == identity:  # noqa: PTH116
            return
    raise OSError(f"{path} is replaced again and again")


def _older_add(path: str, body: str, *, last_try: bool) -> bool:
    name = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    connection = sqlite3.connect(f"file:{name}?mode=rw", uri=True, isolation_level=None, timeout=0)
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version < 3:
            raise OSError("is of an older version; start the agent once")
        connection.execute("PRAGMA synchronous = FULL")
        now = time.time_ns() // 1_000_000
        connection.execute("INSERT INTO reports (received_at, body) VALUES (?, ?)", (now, body))
    except sqlite3.OperationalError as error:
        if last_try or error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
            raise
        return False
    finally:
        connection.close()
    return True
