"""The events that the local Hivel received."""

from __future__ import annotations

import dataclasses
import sqlite3
import threading
from typing import TYPE_CHECKING, Literal

import msgspec

from agent.model.event import DeploymentEvent

if TYPE_CHECKING:
    from pathlib import Path


@dataclasses.dataclass(frozen=True, slots=True)
class Deployment:
    """A stored event."""

    event: DeploymentEvent
    """Normalised: one of the four statuses, times in UTC as ``2025-09-22T12:00:00.000Z``."""
    received_at_ms: int
    """When it was received first, UTC milliseconds."""
    times_posted: int
    """How often a valid event with this deployment_id was received, including those answered with 409."""
    raw: str
    """The JSON that was received first, with fields that the page does not define."""


@dataclasses.dataclass(slots=True)
class ReceivedRequest:
    """A POST to the endpoint, accepted or not."""

    received_at_ms: int
    deployment_id: str | None = None
    """``None`` if the body has none that can be read."""
    status: int | None = None
    """The status of the answer; ``None`` if there is no answer, or none yet."""


def _opened(path: Path | None) -> sqlite3.Connection:
    database = sqlite3.connect(path or ":memory:", isolation_level=None, check_same_thread=False)
    # A POST does not wait for the disk. The sandbox can lose its last events in a power failure.
    database.executescript(
        """
        PRAGMA journal_mode = WAL;
        PRAGMA synchronous = OFF;
        CREATE TABLE IF NOT EXISTS deployment (
            position INTEGER PRIMARY KEY,
            deployment_id TEXT NOT NULL UNIQUE,
            received_at_ms INTEGER NOT NULL,
            times_posted INTEGER NOT NULL,
            event TEXT NOT NULL,
            raw TEXT NOT NULL
        );
        """
    )
    return database


class Store:
    """The stored events, in SQLite. Every method can be called from any thread.

    Raises :class:`OSError` if the file cannot be used.
    """

    def __init__(self, path: Path | None) -> None:
        self._lock = threading.Lock()
        try:
            self._db = _opened(path)
        except (sqlite3.Error, ValueError) as error:
            raise OSError(0, str(error), str(path)) from error

    def add(self, event: DeploymentEvent, raw: bytes, now_ms: int) -> Literal["new", "identical", "different"]:
        """Store the event unless its deployment_id exists; return how it compares with the stored one."""
        encoded = msgspec.json.encode(event).decode()
        key = event.deployment_id
        with self._lock:
            row = self._db.execute("SELECT event FROM deployment WHERE deployment_id = ?", (key,)).fetchone()
            if row is None:
                self._db.execute(
                    "INSERT INTO deployment (deployment_id, received_at_ms, times_posted, event, raw)"
                    " VALUES (?, ?, 1, ?, ?)",
                    (key, now_ms, encoded, raw.decode()),
                )
                return "new"
            self._db.execute("UPDATE deployment SET times_posted = times_posted + 1 WHERE deployment_id = ?", (key,))
        return "identical" if row[0] == encoded else "different"

    def newest(self, limit: int = -1) -> list[Deployment]:
        """Return the newest ``limit`` events (-1: all), newest first."""
        with self._lock:
            rows = self._db.execute(
                "SELECT event, received_at_ms, times_posted, raw FROM deployment ORDER BY position DESC LIMIT ?",
                (limit,),
            ).fetchall()
        return [Deployment(msgspec.json.decode(row[0], type=DeploymentEvent), *row[1:]) for row in rows]

    def count(self) -> int:
        with self._lock:
            return int(self._db.execute("SELECT count(*) FROM deployment").fetchone()[0])

    def close(self) -> None:
        with self._lock:
            self._db.close()
