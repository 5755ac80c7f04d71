"""The tables of the outbox file and how an older file becomes a newer one.

Events and the poller's cursors live in one file because they are committed together.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlite_utils import Database, Migrations

# The number of migrations below; a file with a higher one was written by a newer agent.
VERSION = 5

_V1 = """
CREATE TABLE events (
    id INTEGER PRIMARY KEY,
    deployment_id TEXT NOT NULL UNIQUE,
    -- SQLite builds a table for each row that it compares with a longer list.
    state TEXT NOT NULL CHECK (state = 'pending' OR state = 'held' OR state = 'delivered' OR state = 'failed'),
    payload TEXT,                      -- the event's JSON; NULL while it cannot be derived
    source TEXT,                       -- what it can be derived from again; NULL once delivered
    started_at INTEGER NOT NULL,       -- the build's timestamp: tells builds with the same number apart
    created_at INTEGER NOT NULL,
    next_attempt_at INTEGER NOT NULL,  -- meaningful while pending
    attempts INTEGER NOT NULL DEFAULT 0,
    settled_at INTEGER,                -- when it was delivered or failed
    reason TEXT                        -- why it failed or was not delivered yet; remarks on a delivery
);
-- Keeps a claim at the same speed for any number of rows.
CREATE INDEX events_due ON events (next_attempt_at, id) WHERE state = 'pending';
-- Lists of one state, and the oldest that is pending.
CREATE INDEX events_by_state ON events (state, id);

CREATE TABLE attempts (
    id INTEGER PRIMARY KEY,
    event_id INTEGER NOT NULL REFERENCES events (id) ON DELETE CASCADE,
    at INTEGER NOT NULL,
    duration_ms INTEGER NOT NULL,
    http_status INTEGER,               -- NULL: there was no answer
    verdict TEXT NOT NULL,
    answer TEXT NOT NULL               -- the first part of the answer, or what went wrong
);
CREATE INDEX attempts_of_event ON attempts (event_id);

-- Counting a million rows takes time; counting along takes none.
CREATE TABLE counts (state TEXT PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO counts VALUES ('pending', 0), ('held', 0), ('delivered', 0), ('failed', 0);
CREATE TRIGGER events_inserted AFTER INSERT ON events BEGIN
    UPDATE counts SET n = n + 1 WHERE state = new.state;
END;
CREATE TRIGGER events_deleted AFTER DELETE ON events BEGIN
    UPDATE counts SET n = n - 1 WHERE state = old.state;
END;
CREATE TRIGGER events_moved AFTER UPDATE OF state ON events WHEN old.state != new.state BEGIN
    UPDATE counts SET n = n - 1 WHERE state = old.state;
    UPDATE counts SET n = n + 1 WHERE state = new.state;
END;

-- What the delivery is up to, for people; one row.
CREATE TABLE delivery (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    state TEXT NOT NULL,               -- open, outage, paused
    since INTEGER NOT NULL,
    reason TEXT,
    next_probe_at INTEGER
);

-- One row for each Jenkins controller.
CREATE TABLE controllers (
    name TEXT PRIMARY KEY,
    state TEXT NOT NULL,               -- ok, unreachable, unauthorized, error
    since INTEGER NOT NULL,
    report_from INTEGER,               -- builds that ended before are history; NULL until the first full poll
    polled_at INTEGER,
    jobs INTEGER,
    last_error TEXT
) WITHOUT ROWID;

-- The cursor: numbers below next_build_number were read, but for those in open_builds.
CREATE TABLE jobs (
    controller TEXT NOT NULL,
    full_name TEXT NOT NULL,
    next_build_number INTEGER NOT NULL,
    newest_number INTEGER,             -- the newest build that was seen, and when it started:
    newest_started_at INTEGER,         -- the same number with another start is another job of the same name
    looked_at INTEGER NOT NULL,        -- Jenkins' clock then: lower numbers cannot have started later
    PRIMARY KEY (controller, full_name)
) WITHOUT ROWID;
CREATE TABLE open_builds (
    controller TEXT NOT NULL,
    full_name TEXT NOT NULL,
    number INTEGER NOT NULL,
    seen INTEGER NOT NULL,             -- 0: Jenkins gave the number away but shows no build yet
    waiting_since INTEGER,             -- since when it is neither running nor final
    first_seen_at INTEGER NOT NULL,
    started_at INTEGER,                -- NULL as long as Jenkins shows no build
    PRIMARY KEY (controller, full_name, number)
) WITHOUT ROWID;
-- Numbers that were given away and whose builds could not be read: discarded, deleted, or never used.
CREATE TABLE missed (
    controller TEXT NOT NULL,
    full_name TEXT NOT NULL,
    builds INTEGER NOT NULL,
    newest_number INTEGER NOT NULL,
    noted_at INTEGER NOT NULL,
    PRIMARY KEY (controller, full_name)
) WITHOUT ROWID;
-- A renamed or moved job: its builds may be in events under a former name.
CREATE TABLE former_names (
    controller TEXT NOT NULL,
    full_name TEXT NOT NULL,
    former_name TEXT NOT NULL,
    PRIMARY KEY (controller, full_name, former_name)
) WITHOUT ROWID;
-- A backfill that was interrupted goes on where it was.
CREATE TABLE backfills (
    id TEXT PRIMARY KEY,               -- what was asked for, in words
    since INTEGER NOT NULL,
    until INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE backfilled_jobs (
    id TEXT NOT NULL REFERENCES backfills (id) ON DELETE CASCADE,
    controller TEXT NOT NULL,
    full_name TEXT NOT NULL,
    PRIMARY KEY (id, controller, full_name)
) WITHOUT ROWID;
"""

_V2 = """
-- A claim takes the oldest event that is due, not the one that is due for longest: after an outage, order is kept.
DROP INDEX events_due;
CREATE INDEX events_due ON events (id, next_attempt_at) WHERE state = 'pending';

-- What is left of events that retention deleted: enough to know their ids again, in some 35 bytes each.
CREATE TABLE pruned (
    id_hash BLOB PRIMARY KEY,          -- of the deployment_id, see store.id_hash
    started_at INTEGER NOT NULL,
    day INTEGER NOT NULL               -- when it was deleted, in days since 1970
) WITHOUT ROWID;

-- A damaged file was moved aside and what could be read of it is here.
CREATE TABLE repairs (
    at INTEGER PRIMARY KEY,
    moved_to TEXT NOT NULL,            -- the damaged file
    problem TEXT NOT NULL,
    events INTEGER NOT NULL,           -- how many were read
    reread_from INTEGER NOT NULL       -- builds that ended since then are read again: their events may be lost
);
"""

_V3 = """
-- Reports of builds as `emit` stores them, until the agent makes events of them.
CREATE TABLE reports (
    id INTEGER PRIMARY KEY,
    received_at INTEGER NOT NULL,
    body TEXT NOT NULL                 -- JSON
);
-- NULL: found by the poller. Else the build reported it itself: the stage, or nothing for the whole build.
ALTER TABLE events ADD COLUMN reported TEXT;
-- When held events go out without the poller's word.
CREATE INDEX events_held ON events (next_attempt_at) WHERE state = 'held';
"""

_V4 = """
-- One index for claims and for lists: each index costs each enqueue a page.
DROP INDEX events_due;
DROP INDEX events_by_state;
CREATE INDEX events_by_state ON events (state, id, next_attempt_at);

-- An insert counts nothing, for the same reason. What is counted are the delivered events and the ids below the highest
-- that no row has (any more); those that are held or failed are few. All others are pending.
DELETE FROM counts WHERE state != 'delivered';
INSERT INTO counts SELECT 'no row', coalesce(max(id), 0) - count(*) FROM events;
DROP TRIGGER events_inserted;
DROP TRIGGER events_moved;
CREATE TRIGGER events_moved AFTER UPDATE OF state ON events WHEN 'delivered' IN (old.state, new.state) BEGIN
    UPDATE counts SET n = n + (new.state = 'delivered') - (old.state = 'delivered') WHERE state = 'delivered';
END;
DROP TRIGGER events_deleted;
CREATE TRIGGER events_deleted AFTER DELETE ON events BEGIN
    UPDATE counts SET n = n - 1 WHERE state = 'delivered' AND old.state = 'delivered';
    -- With the last row go the ids that were free below it: the next row gets the first of them.
    UPDATE counts SET n = n + 1 - max(0, old.id - (SELECT coalesce(max(id), 0) FROM events)) WHERE state = 'no row';
END;
"""

_V5 = """
-- How far Jenkins' clock is ahead of this machine's (ms): a report that says no time is compared with Jenkins' times.
ALTER TABLE controllers ADD COLUMN clock_ahead_ms INTEGER;
"""


def version(connection: sqlite3.Connection) -> int:
    """The version of the file, 0 for a new one."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def prepare_new_file(connection: sqlite3.Connection) -> None:
    """What has to be said before the first table exists, or silently has no effect."""
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL")


def count(connection: sqlite3.Connection) -> None:
    """Set the counts right where rows were not inserted one after another, as pending, held or failed."""
    connection.execute(
        "UPDATE counts SET n = (SELECT count(*) FROM events WHERE state = 'delivered') WHERE state = 'delivered'"
    )
    connection.execute(
        "UPDATE counts SET n = (SELECT coalesce(max(id), 0) - count(*) FROM events) WHERE state = 'no row'"
    )


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the schema up to date, within the write transaction of the caller; nothing to do is fine."""
    if version(connection) >= VERSION:
        return  # another process was faster, perhaps one that is newer
    # Imported here: it takes longer than everything else, and is needed once in the life of a file.
    import sqlite_utils  # noqa: PLC0415

    _migrations().apply(sqlite_utils.Database(connection))
    connection.execute(f"PRAGMA user_version = {VERSION}")


def _migrations() -> Migrations:
    import sqlite_utils  # noqa: PLC0415

    migrations = sqlite_utils.Migrations("outbox")

    @migrations()
    def v1_events_and_cursors(db: Database) -> None:
        _run(db, _V1)

    @migrations()
    def v2_order_retention_repairs(db: Database) -> None:
        _run(db, _V2)

    @migrations()
    def v3_reports(db: Database) -> None:
        _run(db, _V3)

    @migrations()
    def v4_cheaper_enqueue(db: Database) -> None:
        _run(db, _V4)

    @migrations()
    def v5_clocks(db: Database) -> None:
        _run(db, _V5)

    return migrations


def _run(db: Database, script: str) -> None:
    for statement in _statements(script):
        db.execute(statement)


def _statements(script: str) -> list[str]:
    """The statements one by one: ``executescript`` would commit the transaction around them."""
    statements, current = [], ""
    for line in script.splitlines(keepends=True):
        current += line
        if sqlite3.complete_statement(current):
            statements.append(current)
            current = ""
    return statements
