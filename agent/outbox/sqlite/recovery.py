"""Copies what can be read of a damaged outbox, of this or an older version, into a new file.

Broken pages are skipped, so the remaining rows of a run may not fit together: facts without deployments, deployments
without facts or project. This module repairs that, so that the agent derives what is missing in its next poll.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from itertools import groupby
from typing import TYPE_CHECKING

import msgspec

from agent.model import fact as facts
from agent.model.deployment import Content, Deployment, Name, Scope, State
from agent.model.fact import Kind, Report
from agent.model.keys import GIVEN_IDS, JENKINS, Project, run_of_id
from agent.model.status import Status
from agent.outbox import rows
from agent.outbox.sqlite.copying import NOT_COUNTED, Writer, clocks_ahead, former_names, known_ids
from agent.outbox.sqlite.older import Converted, Older, OldRow, UnsoundError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from pathlib import Path

    from agent.model.fact import Fact
    from agent.outbox.sqlite.copying import Fields
    from agent.outbox.sqlite.older_ids import OldIds

# Ids are assigned in sequence: after this many unreadable ones in a row the table is considered finished.
_GAP = 20_000
_BATCH = 500
# Tables that are copied unchanged. Cursors and interrupted backfills are not copied.
_SAME = ("reports", "missed", "repairs", "controllers", "set_aside", "wanted_builds")
_SAYS_SOMETHING = "kind IN ('final', 'report', 'unreadable')"
_OF_RUN = "SELECT 1 FROM deployments AS d WHERE d.project_id = f.project_id AND d.run = f.run"
_ONE_OF_SEVERAL = "(d.scope = 'stage' OR d.said_environment IS NOT NULL)"
# The poller no longer knows which builds are open.
_WANTED = (
    "INSERT OR IGNORE INTO wanted_builds SELECT p.scope, p.name, CAST(d.run AS INTEGER), d.created_at"
    " FROM deployments AS d JOIN projects AS p ON p.id = d.project_id WHERE d.state = 'held'"
    " AND p.provider = 'jenkins' AND p.scope = ? AND NOT EXISTS"
    " (SELECT 1 FROM facts AS f WHERE f.project_id = d.project_id AND f.run = d.run AND f.kind = 'final')"
)
_BROKEN = (sqlite3.Error, UnicodeDecodeError)


def recover(path: Path, new: sqlite3.Connection, polled: Collection[str]) -> int:
    """Copy what can be read; nothing if even the first page is broken. Returns the number of deployments copied.

    ``polled``: the names of the polled controllers.
    """
    recovery = _Recovery(new, polled)
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as old:
        recovery.take_over(Damaged(old))
    return recovery.put_in_order()


class Damaged:
    """Reads a file that may have broken pages. ``broke``: tables that could not be read completely."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.broke: set[str] = set()

    def has(self, table: str) -> bool:
        """Whether the table exists, as far as that can be read."""
        try:
            self._connection.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchall()  # noqa: S608
        except sqlite3.OperationalError as error:
            return "no such table" not in str(error)
        except _BROKEN:
            return True
        return True

    def table(self, name: str, behind: str = "") -> Iterator[Fields]:
        """The rows of a small table up to the first broken page; ``behind``: SQL conditions."""
        try:
            cursor = self._connection.execute(f"SELECT * FROM {name} {behind}")  # noqa: S608
            columns = [column[0] for column in cursor.description]
            while (row := cursor.fetchone()) is not None:
                yield dict(zip(columns, row, strict=True))
        except _BROKEN:
            self.broke.add(name)

    def by_id(self, table: str, key: str = "id") -> Iterator[Fields]:
        """The rows of a numbered table without the broken ones: in batches, and one by one within a broken batch."""
        last, unreadable = 0, 0
        batch = f"SELECT * FROM {table} WHERE {key} > ? ORDER BY {key} LIMIT ?"  # noqa: S608
        while unreadable < _GAP:
            try:
                found = self._select(batch, last, _BATCH)
                if not found or found[-1][key] <= last:  # the end, or a broken tree with a loop
                    return
                last = found[-1][key]
                if len(found) == _BATCH and key != "id":  # there may be more rows with this number
                    found = [row for row in found if row[key] < last] + self.of(table, key, last)
            except _BROKEN:
                self.broke.add(table)
                found = list(self._one_by_one(table, key, range(last + 1, last + 1 + _BATCH)))
                last += _BATCH
            unreadable = 0 if found else unreadable + _BATCH
            yield from found

    def _one_by_one(self, table: str, key: str, numbers: Iterable[int]) -> Iterator[Fields]:
        for number in numbers:
            with suppress(*_BROKEN):
                yield from self._select(f"SELECT * FROM {table} WHERE {key} = ?", number)  # noqa: S608

    def of(self, table: str, key: str, number: int) -> list[Fields]:
        """The readable rows with this number in a column."""
        return list(self._one_by_one(table, key, [number]))

    def _select(self, statement: str, *values: int) -> list[Fields]:
        cursor = self._connection.execute(statement, values)
        columns = [column[0] for column in cursor.description]
        return [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]


class _Recovery:
    """Copies from one file to the other."""

    def __init__(self, new: sqlite3.Connection, polled: Collection[str]) -> None:
        self._new = new
        self._polled = polled
        self._writer = Writer(new, polled, or_ignore=True)
        self._projects: dict[int, Project] = {}
        self._incomplete = False

    def take_over(self, old: Damaged) -> None:
        """Copy everything from a file of any version."""
        if old.has("deployments"):
            self._take_over(old)
        else:
            self._convert(old)
        for table in _SAME:
            self._copy(table, old.table(table))

    def put_in_order(self) -> int:
        """Restore the links between rows. Returns how many deployments were copied."""
        taken = int(self._new.execute("SELECT count(*) FROM deployments").fetchone()[0])
        _Order(self._new, self._writer).restore(incomplete=self._incomplete)
        self._new.executemany(_WANTED, [(controller,) for controller in self._polled])
        return taken

    # ---- this version

    def _take_over(self, old: Damaged) -> None:
        for row in old.by_id("projects"):
            with suppress(KeyError, msgspec.ValidationError):
                self._projects[row["id"]] = msgspec.convert(
                    {name: row[name] for name in Project.__struct_fields__}, Project
                )
        jobs = [(each.scope, each.name) for each in self._projects.values() if each.provider == JENKINS]
        ids = known_ids(old.table, self._polled, jobs)
        again = [row["id"] for row in old.by_id("deployments") if not self._deployment(row, ids)]
        for number in again:  # another deployment may have provided the project's name meanwhile
            for row in old.of("deployments", "id", number):
                self._deployment(row, ids, last_time=True)
        self._incomplete = "deployments" in old.broke
        self._facts(old)
        self._copy("attempts", old.by_id("attempts", "deployment"))
        self._new.execute("DELETE FROM attempts WHERE deployment NOT IN (SELECT id FROM deployments)")
        if old.has("actions"):
            self._copy("actions", old.by_id("actions", "deployment"))
            self._new.execute("DELETE FROM actions WHERE deployment NOT IN (SELECT id FROM deployments)")
        if old.has("webhook_starts"):
            self._copy("webhook_deliveries", old.by_id("webhook_deliveries"))
            self._copy("webhook_starts", old.table("webhook_starts"))
        if old.has("webhook_gaps"):
            self._copy("webhook_gaps", old.table("webhook_gaps"))
        if old.has("copies"):  # a copy that was not complete cannot continue with other rows
            self._copy("copies", (row for row in old.table("copies") if row["complete"] == 1))
        for row in old.table("former_names"):
            project, former = (self._projects.get(row[name]) for name in ("project_id", "former_id"))
            if project is not None and former is not None:
                self._writer.add_former_name(project, former)
        self._copy("forgotten", old.table("forgotten"))

    def _deployment(self, row: Fields, ids: OldIds, *, last_time: bool = False) -> bool:
        """False if its project is unknown."""
        project = self._projects.get(row["project_id"])
        found = _sound(row, project or GIVEN_IDS)
        if found is None:
            return True  # an invalid row stays invalid: do not try again
        if project is None:
            key = _key(found, ids)
            if key is None and not (last_time and found.deployment_id):
                return False
            if key is None:
                found = msgspec.structs.replace(found, run=run_of_id(found.deployment_id or ""))
            else:
                self._projects[row["project_id"]] = key
                found = msgspec.structs.replace(found, run=msgspec.structs.replace(found.run, project=key))
        self._writer.add([Converted(found)])
        return True

    def _facts(self, old: Damaged) -> None:
        for row in old.by_id("facts"):
            project = self._projects.get(row["project_id"])
            if project is not None and (fact := _sound_fact(row, project)) is not None:
                self._writer.add_facts([fact])

    # ---- versions 1 to 5

    def _convert(self, old: Damaged) -> None:
        older = Older(known_ids(old.table, self._polled), clocks_ahead(old.table("controllers")))
        for row in old.by_id("events"):
            with suppress(UnsoundError):  # it will be derived again
                self._writer.add([older.convert(OldRow.of(tuple(row.get(name) for name in OldRow._fields)))])
        self._older_attempts(old)
        for project, former in former_names(old.table("former_names")):
            self._writer.add_former_name(project, former)
        self._copy("forgotten", old.table("pruned"))

    def _older_attempts(self, old: Damaged) -> None:
        """Copy attempts in the order of their events, with those of one event in memory at a time."""
        self._new.execute("CREATE TEMP TABLE made (event, id, at, duration_ms, http_status, verdict, answer)")
        names = ("event_id", "id", "at", "duration_ms", "http_status", "verdict", "answer")
        self._new.executemany(
            "INSERT INTO made VALUES (?, ?, ?, ?, ?, ?, ?)",
            (tuple(row[name] for name in names) for row in old.by_id("attempts")),
        )
        made = self._new.execute(
            "SELECT m.event, d.attempts, m.at, m.duration_ms, m.http_status, m.verdict, m.answer FROM made AS m"
            " JOIN deployments AS d ON d.id = m.event WHERE m.verdict != ? ORDER BY m.event, m.id",
            (NOT_COUNTED,),
        )
        for (event, attempts), of_event in groupby(made, key=lambda row: row[:2]):
            self._writer.add_attempts(event, attempts, ((event, *row[2:]) for row in of_event))
        self._new.execute("DROP TABLE made")

    def _copy(self, table: str, found: Iterable[Fields]) -> None:
        """One by one, because some values could not exist in a sound file."""
        known = {row[1] for row in self._new.execute(f"PRAGMA table_info({table})").fetchall()}
        for row in found:
            fields = {name: value for name, value in row.items() if name in known}
            names, marks = ", ".join(fields), ", ".join("?" for _ in fields)
            with suppress(sqlite3.IntegrityError):
                self._new.execute(
                    f"INSERT OR IGNORE INTO {table} ({names}) VALUES ({marks})",  # noqa: S608
                    tuple(fields.values()),
                )


def _sound(row: Fields, project: Project) -> Deployment | None:
    """The deployment of a row; None if no version of the agent writes such a row. It will be derived again."""
    try:
        values = tuple(row[name] for name in rows.COLUMNS.split(", "))
        found = rows.deployment_of(values, project)
        # Encoding and decoding checks the types of all values.
        found = msgspec.json.decode(msgspec.json.encode(found), type=Deployment)
    except (KeyError, TypeError, AttributeError, ValueError, msgspec.MsgspecError):
        return None
    return found if found.frozen == (found.deployment_id is not None) else None


def _sound_fact(row: Fields, project: Project) -> Fact | None:
    try:
        found = rows.fact_of(tuple(row[name] for name in rows.FACT_COLUMNS.split(", ")), project)
        msgspec.convert([found.word, found.received_at], list[int])
    except (KeyError, TypeError, ValueError, msgspec.MsgspecError):
        return None
    return found if found.kind.value == row["kind"] else None


def _key(found: Deployment, ids: OldIds) -> Project | None:
    """The project of a deployment, from its id, its run and its page."""
    content = found.content
    if found.deployment_id is None:
        return None
    parts = [part for name in found.names for part in (name.environment, name.stage, name.repository) if part]
    if content.environment:
        parts.append(content.environment)
    key = ids.read(
        found.deployment_id,
        found.run.number,
        url=content.logs_url,
        parts=lambda: parts,
        started_at=found.build_started_at,
    )
    return None if key is None else Project(JENKINS, key.controller, key.job)


class _Order:
    """Makes facts and deployments consistent again.

    The agent derives a run again in its next poll if one of the run's deployments is held.
    """

    def __init__(self, new: sqlite3.Connection, writer: Writer) -> None:
        self._new = new
        self._writer = writer

    def restore(self, *, incomplete: bool) -> None:
        """``incomplete``: deployments may be missing."""
        self._lost_reports()
        for fact in self._of_facts(f"{_SAYS_SOMETHING} AND NOT EXISTS ({_OF_RUN})"):
            self._hold(fact)
        if incomplete:
            self._hold_those_of_rules()
            for fact in self._of_facts(f"kind = 'report' AND EXISTS ({_OF_RUN} AND {_ONE_OF_SEVERAL})"):
                self._hold(fact)

    def _hold_those_of_rules(self) -> None:
        """Hold deployments of rules again if another one of the same build may be missing and none was delivered.

        What a rule derives from a build is final as soon as its first deployment leaves ``held``.
        """
        found = self._new.execute(
            "SELECT DISTINCT project_id, run FROM deployments AS d WHERE scope = 'rule' AND (NOT EXISTS"
            " (SELECT 1 FROM deployments WHERE id = d.id - 1) OR NOT EXISTS"
            " (SELECT 1 FROM deployments WHERE id = d.id + 1)) AND EXISTS (SELECT 1 FROM facts AS f"
            " WHERE f.project_id = d.project_id AND f.run = d.run AND f.kind = 'final') AND NOT EXISTS"
            " (SELECT 1 FROM deployments AS other WHERE other.project_id = d.project_id AND other.run = d.run"
            " AND (other.scope != 'rule' OR other.state NOT IN ('pending', 'failed')))"
        ).fetchall()
        self._new.executemany(
            "UPDATE deployments SET state = 'held', deployment_id = NULL, held_since = 0, settled_at = NULL"
            " WHERE project_id = ? AND run = ?",
            found,
        )

    def _lost_reports(self) -> None:
        """Where a report was lost, restore it from the deployment, unless Hivel has the deployment."""
        found = self._new.execute(
            f"SELECT {rows.COLUMNS} FROM deployments AS d WHERE state IN ('held', 'pending', 'failed')"  # noqa: S608
            " AND (state = 'held' OR NOT known OR scope = 'stage' OR said_environment IS NOT NULL) AND NOT EXISTS"
            " (SELECT 1 FROM facts AS f WHERE f.project_id = d.project_id AND f.run = d.run AND f.word = d.anchor)"
        ).fetchall()
        for row in found:
            lost = rows.deployment_of(row, self._project(row[1]))
            if lost.run.project.reuses_numbers:
                said = facts.report(lost.run, _report(lost), source="emit", at=lost.build_ended_at)
                self._writer.add_facts([said])
                self._new.execute("UPDATE deployments SET anchor = ? WHERE id = ?", (said.word, lost.number))

    def _of_facts(self, condition: str) -> Iterator[Fact]:
        """The final fact of each run or, if there is none, any other."""
        found = self._new.execute(
            f"SELECT {rows.FACT_COLUMNS}, max(kind = 'final') FROM facts AS f WHERE {condition}"  # noqa: S608
            " GROUP BY project_id, run, attempt"
        ).fetchall()
        return (rows.fact_of(row[:-1], self._project(row[0])) for row in found)

    def _hold(self, fact: Fact) -> None:
        """Insert a held deployment, which is removed if nothing is derived.

        With a final fact there is nothing to wait for.
        """
        at = fact.received_at
        started_at = at if fact.started_at is None else fact.started_at
        held = Deployment(
            run=fact.run,
            build_started_at=started_at,
            build_ended_at=started_at,
            known=False,
            names=(Name(Scope.WHOLE),),
            anchor=fact.word,
            state=State.HELD,
            content=Content(status=Status.UNKNOWN, started_at=started_at, ended_at=started_at),
            created_at=at,
            held_since=0 if fact.kind is Kind.FINAL else at,
        )
        self._writer.add([Converted(held)])

    def _project(self, project_id: int) -> Project:
        row = self._new.execute("SELECT provider, scope, name FROM projects WHERE id = ?", (project_id,)).fetchone()
        return Project(*row)


def _report(lost: Deployment) -> Report:
    own, content = lost.names[0], lost.content
    start = content.started_at if content.started_at != content.ended_at else None
    return Report(
        provider=lost.run.project.provider,
        status=content.status.value,
        stage=own.stage or None,
        environment=own.environment or None,
        repo_url=content.repo_url,
        branch=content.branch,
        commit_hash=content.commit_hash,
        image=content.image,
        pr_number=content.pr_number,
        pr_numbers=content.pr_numbers,
        build_number=content.build_number,
        url=content.logs_url,
        started_at=own.start or None if own.scope is Scope.STAGE else start,
        ended_at=content.ended_at,
    )
