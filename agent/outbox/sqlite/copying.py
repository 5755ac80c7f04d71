"""Filling a new outbox file with rows from an older or damaged one."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections import deque
from contextlib import closing
from itertools import chain
from typing import TYPE_CHECKING, Any

from agent.model.keys import JENKINS, Project
from agent.outbox import rows
from agent.outbox.sqlite import inserting, migrations
from agent.outbox.sqlite.older_ids import OldIds
from agent.outbox.sqlite.swap import LOGS, beside, sync
from agent.outbox.values import LAST_ATTEMPTS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator
    from pathlib import Path

    from agent.model.fact import Fact
    from agent.outbox.sqlite.older import Converted
    from agent.outbox.sqlite.older_ids import Job

    # One table row by column name.
    Fields = dict[str, Any]

_CACHE_KIB = 48_000
# Verdicts of older versions: an attempt that does not count, and a success.
NOT_COUNTED, SUCCESS = "paused", "delivered"
# Tables with job names, and the column that has the name.
_NAMES = (
    ("jobs", "full_name"), ("open_builds", "full_name"), ("missed", "full_name"), ("former_names", "full_name"),
    ("former_names", "former_name"),
)  # fmt: skip
_FACT = f"{inserting.INSERT_FACT.replace('VALUES (', 'SELECT ').removesuffix(')')} WHERE NOT EXISTS"
_INSERT_FACT = f"{_FACT} (SELECT 1 FROM facts WHERE project_id = ?1 AND run = ?2 AND word = ?7)"  # noqa: S608
_INSERT_DEPLOYMENT = f"INTO deployments ({rows.COLUMNS}) VALUES ({', '.join('?' for _ in rows.COLUMNS.split(', '))})"
_INSERT_ATTEMPT = (
    "INSERT INTO attempts (deployment, n, at, duration_ms, http_status, verdict, answer) VALUES (?, ?, ?, ?, ?, ?, ?)"
)


def begin_new_file(path: Path, instead_of: Path) -> sqlite3.Connection:
    """Create a file with all tables and the owner of ``instead_of``, and begin the transaction that fills it.

    It needs no journal: if the process is killed, the next one starts again with another new file.
    """
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    shutil.copystat(instead_of, path)
    owner, mine = instead_of.stat(), path.stat()
    if (owner.st_uid, owner.st_gid) != (mine.st_uid, mine.st_gid):
        os.chown(path, owner.st_uid, owner.st_gid)
    connection = sqlite3.connect(path, isolation_level=None)
    migrations.prepare_new_file(connection)
    for setting in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{_CACHE_KIB}", "temp_store = FILE"):
        connection.execute(f"PRAGMA {setting}")
    connection.execute("BEGIN")
    migrations.migrate(connection)
    return connection


def complete_new_file(path: Path) -> None:
    """Give the file the usual settings and sync it to the disk."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    sync(path)


def remove_new_file(path: Path) -> None:
    """Remove what a killed process left behind."""
    for suffix in ("", "-journal", *LOGS):
        beside(path, suffix).unlink(missing_ok=True)


def known_ids(
    tables: Callable[[str], Iterable[Fields]], controllers: Iterable[str], jobs: Iterable[Job] = ()
) -> OldIds:
    """A reader of ids that knows the names in these tables, the polled controllers, and these jobs."""
    found = {(row["controller"], row[name]) for table, name in _NAMES for row in tables(table) if name in row}
    return OldIds([*controllers, *(row["name"] for row in tables("controllers"))], found.union(jobs))


def clocks_ahead(controllers: Iterable[Fields]) -> dict[str, int]:
    """How far each controller's clock is ahead (ms)."""
    return {row["name"]: row.get("clock_ahead_ms") or 0 for row in controllers}


class Writer:
    """Writes deployments with their facts and attempts into the new tables.

    ``or_ignore``: of several rows with the same identity store only the first. A damaged file may have such rows.
    """

    def __init__(self, new: sqlite3.Connection, polled: Collection[str], *, or_ignore: bool = False) -> None:
        self._new = new
        self._insert = f"INSERT OR IGNORE {_INSERT_DEPLOYMENT}" if or_ignore else f"INSERT {_INSERT_DEPLOYMENT}"
        self._polled = polled
        self._projects: dict[Project, int] = {}

    def project(self, project: Project) -> int:
        """The number of a project, which is inserted if necessary."""
        known = self._projects.get(project)
        if known is None:
            known = self._projects[project] = len(self._projects) + 1
            values = (known, project.provider, project.scope, project.name)
            self._new.execute("INSERT INTO projects (id, provider, scope, name) VALUES (?, ?, ?, ?)", values)
        return known

    def add(self, converted: Iterable[Converted]) -> None:
        """Insert deployments with their facts."""
        deployments, said, wanted = list[Any](), list[Any](), list[Any]()
        for deployment, its_facts, is_wanted in converted:
            project = deployment.run.project
            deployments.append(
                (
                    deployment.number or None,
                    *rows.deployment_row(deployment, self.project(project), deployment.created_at),
                )
            )
            said += its_facts
            if is_wanted and project.scope in self._polled and deployment.sent_revision is None:
                wanted.append((project.scope, project.name, int(deployment.run.number), deployment.created_at))
        self._new.executemany(self._insert, deployments)
        self.add_facts(said)
        self._new.executemany("INSERT OR IGNORE INTO wanted_builds VALUES (?, ?, ?, ?)", wanted)

    def add_facts(self, said: Iterable[Fact]) -> None:
        """Insert facts, each once."""
        self._new.executemany(_INSERT_FACT, [rows.fact_row(fact, self.project(fact.run.project)) for fact in said])

    def add_attempts(self, event_id: int, attempts: int, made: Iterable[Any]) -> None:
        """Insert the first and the last failed attempts since the event was last replayed.

        ``made``: all that count, oldest first: event, time, duration, HTTP status, verdict, answer. ``attempts``: how
        many of them were made since the replay.
        """
        total, first, last = 0, list[Any](), deque[Any](maxlen=LAST_ATTEMPTS)
        for total, attempt in enumerate(made, 1):
            (first if total == 1 else last).append((total, attempt))
        numbered = [(place + attempts - total, attempt) for place, attempt in (*first, *last)]
        self._new.executemany(
            _INSERT_ATTEMPT,
            [
                (event_id, n, *attempt[1:])
                for n, attempt in numbered
                if attempt[4] != SUCCESS and (n == 1 or n > max(1, attempts - LAST_ATTEMPTS))
            ],
        )

    def add_former_name(self, project: Project, former: Project) -> None:
        """Store that builds of ``project`` may be stored under the name ``former``."""
        values = (self.project(project), self.project(former))
        self._new.execute("INSERT OR IGNORE INTO former_names VALUES (?, ?)", values)


def former_names(table: Iterable[Fields]) -> Iterator[tuple[Project, Project]]:
    """Former names in an older version, which stores full job names."""
    for row in table:
        yield (
            Project(JENKINS, row["controller"], row["full_name"]),
            Project(JENKINS, row["controller"], row["former_name"]),
        )


def copy(new: sqlite3.Connection, table: str, found: Iterable[Fields]) -> None:
    """Insert rows of a table that both files have, limited to the columns of the new one."""
    rest = iter(found)
    first = next(rest, None)
    if first is None:
        return
    known = {row[1] for row in new.execute(f"PRAGMA table_info({table})").fetchall()}
    names = [name for name in first if name in known]
    new.executemany(
        f"INSERT OR IGNORE INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' for _ in names)})",  # noqa: S608
        (tuple(row[name] for name in names) for row in chain((first,), rest)),
    )


def copy_newer_reports(new: sqlite3.Connection, table: Callable[[str, str], Iterable[Fields]]) -> None:
    """Insert the reports that the new file lacks: `emit` numbers them in ascending order while none is removed."""
    last = new.execute("SELECT coalesce(max(id), 0) FROM reports").fetchone()[0]
    copy(new, "reports", table("reports", f"WHERE id > {last} ORDER BY id"))
