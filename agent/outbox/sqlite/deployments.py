"""Facts and the deployments that they amount to: load and store, the inbox, what was set aside, replay and discard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from agent.model.deployment import State
from agent.model.fact import Kind, seen
from agent.model.keys import JENKINS, Run
from agent.outbox.sqlite import rows
from agent.outbox.sqlite.part import MOST_DIGITS, Part
from agent.outbox.values import OutboxFullError, RunState, StoredReport

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from agent.model.deployment import Deployment
    from agent.model.fact import Fact
    from agent.model.keys import Project
    from agent.outbox.sqlite.rows import Place
    from agent.outbox.values import Change, SetAside

# ?1 is JSON: [[project, run], …]. CROSS JOIN: in this order, never the whole table for a few runs.
_FACTS = (
    f"SELECT {', '.join('f.' + name for name in rows.FACT_COLUMNS.split(', '))} FROM json_each(?1) AS asked"  # noqa: S608
    " CROSS JOIN facts AS f ON f.project_id = json_extract(asked.value, '$[0]')"
    " AND f.run = json_extract(asked.value, '$[1]') ORDER BY f.id"
)
_DEPLOYMENTS = (
    f"SELECT {', '.join('d.' + name for name in rows.COLUMNS.split(', '))} FROM json_each(?1) AS asked"  # noqa: S608
    " CROSS JOIN deployments AS d ON d.project_id = json_extract(asked.value, '$[0]')"
    " AND d.run = json_extract(asked.value, '$[1]') ORDER BY d.id"
)
# ?1 is JSON: [[controller, job, number], …].
_OPEN = (
    "SELECT asked.key, o.started_at, o.first_seen_at FROM json_each(?1) AS asked CROSS JOIN open_builds AS o"
    " ON o.controller = json_extract(asked.value, '$[0]') AND o.full_name = json_extract(asked.value, '$[1]')"
    " AND o.number = json_extract(asked.value, '$[2]') WHERE o.started_at IS NOT NULL"
)

# What leaves an id as it is, or gives one that no other deployment has or had.
_ID_IS_FREE = "(deployment_id IS :deployment_id OR NOT EXISTS (SELECT 1 FROM forgotten WHERE id_hash = :id_hash))"
_REWRITTEN = (*rows.KEY_COLUMNS, *rows.CONTENT_COLUMNS)
_SET = ", ".join(f"{name} = :{name}" for name in (*_REWRITTEN, "deployment_id", "state", "revision", "held_since",
                                                  "next_attempt_at", "settled_at", "reason"))  # fmt: skip
_REWRITE = (
    f"UPDATE OR IGNORE deployments SET {_SET} WHERE id = :id AND revision IN (:revision, :revision - 1)"  # noqa: S608
    f" AND {_ID_IS_FREE} AND state IN "
)
# From which states a deployment may come to be in this one.
_REWRITES = {
    State.HELD: _REWRITE + "('held')",
    State.PENDING: _REWRITE + "('held', 'pending', 'failed')",
    State.FAILED: _REWRITE + "('held', 'pending', 'failed')",
    State.DISCARDED: _REWRITE + "('discarded')",
    # What Hivel has is as it is; only what the deployment stands for can change.
    State.DELIVERED: (
        "UPDATE deployments SET known = :known, names = :names,"
        " build_started_at = nullif(:started, started_at), build_ended_at = nullif(:ended, ended_at)"
        " WHERE id = :id AND state = 'delivered'"
    ),
}
_OWNER = (
    "SELECT coalesce(build_started_at, started_at), id FROM deployments WHERE deployment_id = ?1"
    " UNION ALL SELECT started_at, 0 FROM forgotten WHERE id_hash = ?2"
)


class Deployments(Part):
    """See :class:`agent.outbox.interface.Deployments`."""

    # ---- load

    def load(self, runs: Collection[Run]) -> dict[Run, RunState]:
        """What is stored about these runs, each under its project's name and the former names of it.

        Facts in the order in which they were stored, the SEEN facts of open builds behind them.
        """
        facts: dict[Run, list[Fact]] = {run: [] for run in runs}
        deployments: dict[Run, list[Deployment]] = {run: [] for run in runs}
        names = self._names({run.project for run in runs})
        places = self._places(facts, names)
        if places:
            asked = msgspec.json.encode(list({place[:2] for place in places})).decode()
            for row in self._all(_FACTS, (asked,)):
                for run in places.get(row[:3], ()):
                    facts[run].append(rows.fact_of(row, self._project(row[0])))
            found = self._all(_DEPLOYMENTS, (asked,))
            for row, deployment in zip(found, self._deployments(found), strict=True):
                for run in places.get(row[1:4], ()):
                    deployments[run].append(deployment)
        self._add_open_builds(facts, names)
        return {run: RunState(run, tuple(facts[run]), tuple(deployments[run])) for run in facts}

    def _places(self, runs: Iterable[Run], names: Mapping[Project, Sequence[Project]]) -> dict[Place, list[Run]]:
        """Where things of these runs may be stored, and of which of them each is."""
        places: dict[Place, list[Run]] = {}
        for run in runs:
            for project in names[run.project]:
                project_id = self._project_id(project)
                if project_id is not None:
                    places.setdefault((project_id, run.number, run.attempt), []).append(run)
        return places

    def _add_open_builds(self, facts: dict[Run, list[Fact]], names: Mapping[Project, Sequence[Project]]) -> None:
        asked = [
            (project, run)
            for run in facts
            if run.project.provider == JENKINS and run.number.isdecimal() and len(run.number) <= MOST_DIGITS
            for project in names[run.project]
        ]
        if not asked:
            return
        keys = [(project.scope, project.name, int(run.number)) for project, run in asked]
        for place, started_at, first_seen_at in self._all(_OPEN, (msgspec.json.encode(keys).decode(),)):
            project, run = asked[place]
            fact = seen(Run(project, run.number, run.attempt), started_at=started_at, at=first_seen_at)
            if all(known.word != fact.word for known in facts[run]):
                facts[run].append(fact)

    # ---- store

    def store(self, changes: Sequence[Change]) -> dict[str, int]:
        """Store facts, insert, rewrite and remove deployments, in one transaction.

        A deployment is rewritten if its stored revision is the new one or the one before, and if it may go from its
        stored state to the new one: held to held, pending or failed; pending and failed to each other; discarded stays
        discarded. Of a delivered one only names, build times and ``known`` are rewritten. What delivery wrote
        (attempts, sent_revision) and ``created_at`` stay. Only held ones are removed.

        Returns the ids that could not be given because another deployment has or had them, each with the start of
        that one's build: those deployments were not inserted (or, rewritten ones, stayed as they were). Raises
        :class:`OutboxFullError` when ``max_size`` is reached and there are reports or deployments to insert.
        """
        with self._writing():
            inserted = [deployment for change in changes for deployment in change.inserted]
            facts = [fact for change in changes for fact in change.facts]
            if self.max_size and (inserted or any(fact.kind is Kind.REPORT for fact in facts)):
                self._refuse_when_full()
            self._connection.executemany(
                "DELETE FROM deployments WHERE id = ? AND state = 'held'",
                [(deployment.number,) for change in changes for deployment in change.removed],
            )
            refused = self._rewrite([deployment for change in changes for deployment in change.rewritten])
            made = self._made_project_id
            self._connection.executemany(
                rows.INSERT_FACT, [rows.fact_row(fact, made(fact.run.project)) for fact in facts]
            )
            return refused | self._insert(inserted)

    def _insert(self, deployments: Sequence[Deployment]) -> dict[str, int]:
        """Returns the ids that were not free, with the starts of those that have or had them."""
        if not deployments:
            return {}
        now, made = self.clock.now_ms(), self._made_project_id
        inserted = self._connection.executemany(
            rows.INSERT_DEPLOYMENT, [rows.deployment_row(each, made(each.run.project), now) for each in deployments]
        ).rowcount
        if inserted == len(deployments):
            return {}
        newest = self._all("SELECT deployment_id FROM deployments ORDER BY id DESC LIMIT ?", (inserted,))
        new = {name for (name,) in newest if name is not None}
        refused = {}
        for deployment in deployments:
            name = deployment.deployment_id
            if name in new:
                new.remove(name)  # another one of the same id comes too late
            elif name is not None:
                refused[name] = self._owner(name)[0]
        return refused

    def _rewrite(self, deployments: Sequence[Deployment]) -> dict[str, int]:
        """As :meth:`_insert`."""
        now, refused = self.clock.now_ms(), {}
        for deployment in deployments:
            values = _rewrite_values(deployment, self._made_project_id(deployment.run.project), now)
            changed = self._connection.execute(_REWRITES[deployment.state], values).rowcount
            name = deployment.deployment_id
            if not changed and name is not None:
                owner = self._owner(name)
                if owner is not None and owner[1] != deployment.number:
                    refused[name] = owner[0]
        return refused

    def _owner(self, deployment_id: str) -> Any:
        """Start of the build and number (0: deleted) of the deployment that has or had this id; None: it is free."""
        return self._one(_OWNER, (deployment_id, rows.id_hash(deployment_id)))

    # ---- the inbox, and what was set aside

    def add_report(self, body: str) -> None:
        """Put a report into the inbox. Raises :class:`OutboxFullError` when ``max_size`` is reached."""
        with self._writing():
            if self.max_size:
                self._refuse_when_full()
            self._connection.execute(
                "INSERT INTO reports (received_at, body) VALUES (?, ?)", (self.clock.now_ms(), body)
            )

    def reports(self, limit: int) -> list[StoredReport]:
        """The oldest reports of the inbox."""
        found = self._all("SELECT id, received_at, body FROM reports ORDER BY id LIMIT ?", (limit,))
        return [StoredReport(*row) for row in found]

    def remove_report(self, report: StoredReport) -> None:
        """It was taken, or set aside. A later report may have the same number: that one stays."""
        with self._writing():
            self._connection.execute(
                "DELETE FROM reports WHERE id = ? AND received_at = ? AND body = ?",
                (report.id, report.received_at, report.body),
            )

    def set_aside(self, item: SetAside) -> None:
        """Remember what an exception that nobody expected came from; the same subject again replaces it."""
        values = (item.kind, _storable(item.subject), item.at, _storable(item.error), _storable(item.body))
        with self._writing():
            self._connection.execute("DELETE FROM set_aside WHERE kind = ? AND subject = ?", values[:2])
            self._connection.execute(
                "INSERT INTO set_aside (kind, subject, at, error, body) VALUES (?, ?, ?, ?, ?)", values
            )

    # ---- held, replay, discard

    def held(self, since: int | None = None) -> list[Run]:
        """The runs with deployments that are held, those that came first at the front.

        Since before ``since`` or (the clock was set back) from later than now on; None: all of them.
        """
        waits, values = "", tuple[int, ...]()
        if since is not None:
            waits, values = " AND (held_since < ? OR held_since > ?)", (since, self.clock.now_ms())
        found = self._all(
            f"SELECT project_id, run, attempt FROM deployments WHERE state = 'held'{waits} ORDER BY id",  # noqa: S608
            values,
        )
        return [Run(self._project(place[0]), *place[1:]) for place in dict.fromkeys(found)]

    def replay(self, deployments: Sequence[Deployment]) -> list[bool]:
        """Make settled deployments pending with fresh attempts, as they are.

        False for each that is not in its state and revision any more, or was not settled.
        """
        with self._writing():
            done = self._move(
                deployments,
                "state = 'pending', attempts = 0, settled_at = NULL, reason = NULL, next_attempt_at = ?",
                "'delivered', 'failed', 'discarded'",
                (self.clock.now_ms(),),
            )
            self._connection.executemany(
                "DELETE FROM attempts WHERE deployment = ?",
                [(each.number,) for each, moved in zip(deployments, done, strict=True) if moved],
            )
        return done

    def discard(self, deployments: Sequence[Deployment], reason: str) -> list[bool]:
        """Let failed or pending ones go: kept, their ids known, never sent again unless replayed.

        False for each that is not in its state and revision any more, or neither failed nor pending.
        """
        values = (self.clock.now_ms(), reason)
        with self._writing():
            return self._move(
                deployments, "state = 'discarded', settled_at = ?, reason = ?", "'failed', 'pending'", values
            )

    def _move(
        self, deployments: Sequence[Deployment], assignments: str, states: str, values: tuple[object, ...]
    ) -> list[bool]:
        sql = (
            f"UPDATE deployments SET {assignments}"  # noqa: S608
            f" WHERE id = ? AND state = ? AND revision = ? AND state IN ({states})"
        )
        return [
            self._connection.execute(sql, (*values, each.number, each.state.value, each.revision)).rowcount == 1
            for each in deployments
        ]

    # ---- the bound

    def _refuse_when_full(self) -> None:
        """Compared within the transaction, so that nobody else fills it in between."""
        taken = self.size()
        if taken >= self.max_size:
            raise OutboxFullError(
                f"the outbox {self.path} is full: it takes {taken} bytes, [outbox] max_size is {self.max_size}; "
                "deployments have to be delivered and deleted, or max_size to be raised"
            )

    def size(self) -> int:
        """Bytes that the data takes, without what is free inside."""
        pages, free, page = (self._one(f"PRAGMA {name}")[0] for name in ("page_count", "freelist_count", "page_size"))
        return int((pages - free) * page)


def _storable(text: str | None) -> Any:
    """Whatever made trouble elsewhere must not make it again: SQLite takes no half characters."""
    return None if text is None else text.encode("utf-8", "backslashreplace").decode()


def _rewrite_values(deployment: Deployment, project_id: int, now: int) -> dict[str, object]:
    name = deployment.deployment_id
    keys = rows.key_values(deployment, project_id)
    content = rows.content_values(deployment.content, deployment.run.number)
    return {
        **dict(zip(_REWRITTEN, (*keys, *content), strict=True)),
        "id": deployment.number,
        "deployment_id": name,
        "id_hash": None if name is None else rows.id_hash(name),
        "state": deployment.state.value,
        "revision": deployment.revision,
        "held_since": rows.held_since(deployment, now),
        "next_attempt_at": deployment.next_attempt_at,
        "settled_at": rows.settled_at(deployment, now),
        "reason": deployment.reason,
        "started": deployment.build_started_at,
        "ended": deployment.build_ended_at,
    }
