"""The outbox's events: enqueue, claim, settle, replay, and looking at them."""

from __future__ import annotations

import enum
import hashlib
import sqlite3
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import msgspec

from agent.model import event as events
from agent.outbox.sqlite import connection as outbox_connection

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from pathlib import Path

    from agent.model.event import DeploymentEvent
    from agent.model.times import Clock

ANSWER_LIMIT = 2_000


class State(enum.StrEnum):
    """Where an event is on its way."""

    PENDING = "pending"  # to be sent when its next attempt is due
    HELD = "held"  # waits for the poller's final word
    DELIVERED = "delivered"  # Hivel has it
    FAILED = "failed"  # needs a person: see the reason, mend it, replay


@dataclass(frozen=True)
class Entry:
    """Something to enqueue: an event, or the reason why it could not be derived (exactly one of them).

    ``reported``: the build reported it itself, the stage of that name or, with an empty name, as a whole.
    ``hold_until`` (UTC ms): it waits so long for the poller's word.
    """

    deployment_id: str
    started_at: int
    source: str | None
    event: DeploymentEvent | None = None
    reason: str | None = None
    reported: str | None = None
    hold_until: int | None = None


@dataclass(frozen=True)
class DueEvent:
    """A claimed row: what to send, how often it was tried before, and since when it is known (UTC ms)."""

    id: int
    deployment_id: str
    payload: str
    attempts: int
    created_at: int


@dataclass(frozen=True)
class Settlement:
    """What came of one attempt. ``state`` PENDING: try again at ``next_attempt_at`` (ms), or when due if None."""

    id: int
    state: State
    counts_as_attempt: bool
    at: int
    duration_ms: int
    http_status: int | None
    verdict: str
    answer: str
    reason: str | None = None
    next_attempt_at: int | None = None


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """An event as ``queue list`` shows it. Times are UTC milliseconds."""

    id: int
    deployment_id: str
    state: State
    created_at: int
    next_attempt_at: int
    attempts: int
    settled_at: int | None
    reason: str | None
    payload: str | None
    source: str | None
    started_at: int
    reported: str | None


@dataclass(frozen=True)
class StoredReport:
    """A report as it was stored; ``received_at`` in UTC milliseconds."""

    id: int
    received_at: int
    body: str


class Attempt(msgspec.Struct, frozen=True):
    """One attempt as ``queue show`` shows it."""

    at: int
    duration_ms: int
    http_status: int | None
    verdict: str
    answer: str


class Counts(msgspec.Struct, frozen=True):
    """How many events are in each state."""

    pending: int
    held: int
    delivered: int
    failed: int


class DeliveryState(msgspec.Struct, frozen=True):
    """What the delivery was up to when it last said so: ``open``, ``outage`` or ``paused``."""

    state: str
    since: int
    reason: str | None
    next_probe_at: int | None


class LastRepair(msgspec.Struct, frozen=True):
    """The outbox was found damaged ``at`` (UTC ms); ``events`` could be read from the file that was ``moved_to``."""

    at: int
    moved_to: str
    problem: str
    events: int


@dataclass(frozen=True)
class Selection:
    """Which events to replay; conditions add up. Times (UTC ms) are those of enqueueing, ``until`` not included.

    ``error``: the reason contains this text, in any case.
    """

    states: tuple[State, ...] = (State.FAILED,)
    since: int | None = None
    until: int | None = None
    environment: str | None = None
    error: str | None = None


INSERT = (
    "INSERT INTO events (deployment_id, state, payload, source, started_at, created_at, next_attempt_at,"
    " settled_at, reason, reported) SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?, ?"
    " WHERE NOT EXISTS (SELECT 1 FROM pruned WHERE id_hash = ?) ON CONFLICT (deployment_id) DO NOTHING"
)
# In the order of ``Counts``. Those that are held or failed are few; for the others see the fourth migration.
COUNTS = (
    "SELECT ids - no_row - held - delivered - failed, held, delivered, failed FROM"
    " (SELECT coalesce(max(id), 0) AS ids FROM events),"
    " (SELECT n AS no_row FROM counts WHERE state = 'no row'),"
    " (SELECT n AS delivered FROM counts WHERE state = 'delivered'),"
    " (SELECT count(*) AS held FROM events WHERE state = 'held'),"
    " (SELECT count(*) AS failed FROM events WHERE state = 'failed')"
)
# The hint: SQLite must not go by next_attempt_at, nor read rows of which the index says that they wait.
CLAIM = (
    "SELECT id, deployment_id, payload, attempts, created_at FROM events INDEXED BY events_by_state"
    " WHERE state = 'pending' AND next_attempt_at <= ? ORDER BY id LIMIT ?"
)
_ROW = ", ".join(Row.__struct_fields__)


class Outbox:
    """One connection to the outbox. Use one for each thread that works at the same time as another."""

    def __init__(self, path: Path, clock: Clock) -> None:
        """Open or make the file. Raises :class:`agent.outbox.values.OutboxError`."""
        self.path = path
        self.clock = clock
        self.connection = outbox_connection.connect(path)

    def close(self) -> None:
        """Let go of the file."""
        self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def transaction(self) -> outbox_connection.WriteTransaction:
        """Several changes that are stored together or not at all."""
        return outbox_connection.WriteTransaction(self.connection, self.path)

    # ---- in

    def enqueue(self, entries: Iterable[Entry], *, instead_of: Iterable[Row] = ()) -> list[Entry]:
        """Store what is not there yet; returns what was stored, durable when the transaction ends.

        An entry whose id is taken by a build that started at another time gets the id of a reused number.
        ``instead_of``: events that waited for the poller's word, which this is.
        """
        entries = list(entries)
        with self.transaction():
            for row in instead_of:
                self._let_go(row)
            added, there = self._insert(entries)
            if there:
                others = [entry for entry in there if self.last_known_start(entry.deployment_id) != entry.started_at]
                added += self._insert([_as_reused_number(entry) for entry in others])[0]
        return added

    def _insert(self, entries: Sequence[Entry]) -> tuple[list[Entry], list[Entry]]:
        """Store them; returns which were stored, and which were not because their ids are or were there."""
        now = self.clock.now_ms()
        stored = self.connection.executemany(INSERT, [_new_row(entry, now) for entry in entries]).rowcount
        if stored == len(entries):
            return list(entries), []
        newest = self.connection.execute("SELECT deployment_id FROM events ORDER BY id DESC LIMIT ?", (stored,))
        new = {name for (name,) in newest.fetchall()}
        added, there = [], []
        for entry in entries:
            if entry.deployment_id in new:
                new.remove(entry.deployment_id)  # another one of the same id comes too late
                added.append(entry)
            else:
                there.append(entry)
        return added, there

    def knows(self, deployment_id: str, started_at: int) -> bool:
        """Whether the build of that id and start (UTC ms) is or was there, be it under the id of a reused number."""
        if self.last_known_start(deployment_id) == started_at:
            return True
        return self.last_known_start(events.reused_number_id(deployment_id, started_at)) is not None

    def last_known_start(self, deployment_id: str) -> int | None:
        """When the build of this id started (UTC ms), also when retention deleted its event; None: not known."""
        started_at = self._started_at(deployment_id)
        return self._pruned(deployment_id) if started_at is None else started_at

    def _started_at(self, deployment_id: str) -> int | None:
        found = self.connection.execute("SELECT started_at FROM events WHERE deployment_id = ?", (deployment_id,))
        row = found.fetchone()
        return None if row is None else int(row[0])

    def _pruned(self, deployment_id: str) -> int | None:
        found = self.connection.execute("SELECT started_at FROM pruned WHERE id_hash = ?", (id_hash(deployment_id),))
        row = found.fetchone()
        return None if row is None else int(row[0])

    # ---- reports of builds, and what is held for the poller

    def add_report(self, body: str) -> None:
        """Store a report as it is; durable when this returns."""
        with self.transaction() as connection:
            connection.execute("INSERT INTO reports (received_at, body) VALUES (?, ?)", (self.clock.now_ms(), body))

    def has_reports(self) -> bool:
        """Whether there are reports that no event was made of yet."""
        return self.connection.execute("SELECT 1 FROM reports LIMIT 1").fetchone() is not None

    def reports(self, limit: int) -> list[StoredReport]:
        """Reports that no event was made of yet, oldest first."""
        found = self.connection.execute("SELECT id, received_at, body FROM reports ORDER BY id LIMIT ?", (limit,))
        return [StoredReport(*row) for row in found.fetchall()]

    def remove_report(self, report: StoredReport) -> None:
        """There is an event of it now."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM reports WHERE id = ?", (report.id,))

    def all_held(self) -> list[Row]:
        """The events that wait for the poller's word, those that wait longest first."""
        return self._rows("state = 'held' ORDER BY next_attempt_at", ())

    def rewrite(self, row: Row, entry: Entry) -> bool:
        """Give an event that was not delivered yet another content, and id.

        False when it was delivered meanwhile, or another event has that id.
        """
        payload, state = _payload_and_state(entry)
        with self.transaction() as connection:
            changed = connection.execute(
                "UPDATE OR IGNORE events SET deployment_id = ?, state = ?, payload = ?, source = ?, started_at = ?,"
                " reason = ?, reported = ?, next_attempt_at = ?, settled_at = NULL"
                " WHERE id = ? AND state != 'delivered'",
                (
                    entry.deployment_id, state, payload, entry.source, entry.started_at, entry.reason, entry.reported,
                    self.clock.now_ms() if entry.hold_until is None else entry.hold_until, row.id,
                ),
            )  # fmt: skip
        return changed.rowcount == 1

    def under_free_id(self, entry: Entry, instead_of: Iterable[Row] = ()) -> Entry:
        """The entry, under another id where something else has its own: a stage, or the build of an earlier job."""
        free = {row.id for row in instead_of}
        while (row := self.find_exactly(entry.deployment_id)) is not None and row.id not in free:
            entry = _as_reused_number(entry)
        return entry

    def release_overdue(self, hold_for_ms: int) -> list[str]:
        """Let held events go out alone that waited long enough; returns their ids.

        One that would wait longer than ``hold_for_ms`` from now was held by a clock that was set back since.
        """
        now = self.clock.now_ms()
        overdue = "state = 'held' AND (next_attempt_at <= :now OR next_attempt_at > :latest)"
        moments = {"now": now, "latest": now + hold_for_ms}
        found = self.connection.execute(f"SELECT deployment_id FROM events WHERE {overdue}", moments).fetchall()  # noqa: S608
        if found:
            with self.transaction() as connection:
                connection.execute(
                    "UPDATE events SET state = CASE WHEN payload IS NULL THEN 'failed' ELSE 'pending' END,"  # noqa: S608
                    f" settled_at = CASE WHEN payload IS NULL THEN :now END, next_attempt_at = :now WHERE {overdue}",
                    moments,
                )
        return [row[0] for row in found]

    def _let_go(self, row: Row) -> None:
        self.connection.execute(
            "DELETE FROM events WHERE id = ? AND (state = 'held' OR state = 'failed' AND payload IS NULL)", (row.id,)
        )

    # ---- out

    def claim(self, limit: int, *, besides: Collection[int] = ()) -> list[DueEvent]:
        """The events that are due, oldest first, without those in flight (``besides``: their row ids).

        Only the holder of the run lock claims, so nothing has to be written: see ``RunLock``.
        """
        found = self.connection.execute(
            CLAIM,
            (self.clock.now_ms(), limit + len(besides)),
        ).fetchall()
        return [DueEvent(*row) for row in found if row[0] not in besides][:limit]

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """Record attempts and what became of their events, in one commit."""
        if not settlements:
            return
        with self.transaction() as connection:
            connection.executemany(
                "INSERT INTO attempts (event_id, at, duration_ms, http_status, verdict, answer)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                [(s.id, s.at, s.duration_ms, s.http_status, s.verdict, s.answer[:ANSWER_LIMIT]) for s in settlements],
            )
            connection.executemany(
                "UPDATE events SET state = :state, attempts = attempts + :counts, reason = :reason,"
                " next_attempt_at = coalesce(:next, next_attempt_at), settled_at = :settled,"
                " source = CASE WHEN :state = 'delivered' THEN NULL ELSE source END"
                " WHERE id = :id AND state = 'pending'",
                [
                    {
                        "id": s.id,
                        "state": s.state.value,
                        "counts": int(s.counts_as_attempt),
                        "reason": s.reason,
                        "next": s.next_attempt_at,
                        "settled": None if s.state is State.PENDING else s.at,
                    }
                    for s in settlements
                ],
            )

    def make_due(self, *, later_than: int) -> int:
        """Let pending events that wait beyond ``later_than`` (UTC ms) be due now; returns how many.

        After an outage nobody has to wait out a backoff, and a clock that jumped back makes nobody wait for years.
        It looks at every pending event.
        """
        with self.transaction() as connection:
            return connection.execute(
                "UPDATE events INDEXED BY events_by_state SET next_attempt_at = ?"
                " WHERE state = 'pending' AND next_attempt_at > ?",
                (self.clock.now_ms(), later_than),
            ).rowcount

    # ---- again

    def select(self, selection: Selection) -> list[tuple[int, str]]:
        """Number and deployment_id of the events that a replay would send again, oldest first."""
        conditions: list[tuple[str, Sequence[object]]] = [
            (f"state IN ({', '.join('?' for _ in selection.states)})", selection.states)
        ]
        if selection.since is not None:
            conditions.append(("created_at >= ?", [selection.since]))
        if selection.until is not None:
            conditions.append(("created_at < ?", [selection.until]))
        if selection.environment is not None:
            conditions.append(("json_extract(payload, '$.environment') = ?", [selection.environment]))
        if selection.error is not None:
            conditions.append(("instr(lower(reason), lower(?)) > 0", [selection.error]))
        where = " AND ".join(condition for condition, _ in conditions)
        return self.connection.execute(
            f"SELECT id, deployment_id FROM events WHERE {where} ORDER BY id",  # noqa: S608
            [value for _, values in conditions for value in values],
        ).fetchall()

    def replay(self, row: Row, event: DeploymentEvent | None = None) -> bool:
        """Make a settled row pending with fresh attempts, with the event derived anew if there is one.

        False when somebody else changed the row's state meanwhile, or there is nothing to send.
        """
        payload = row.payload if event is None else events.encode(event).decode()
        if payload is None:
            return False
        with self.transaction() as connection:
            changed = connection.execute(
                "UPDATE events SET state = 'pending', attempts = 0, settled_at = NULL, reason = NULL,"
                " next_attempt_at = ?, payload = ? WHERE id = ? AND state = ?",
                (self.clock.now_ms(), payload, row.id, row.state),
            )
            return changed.rowcount == 1

    def explain_failure(self, row: Row, reason: str) -> None:
        """Note why a failed event still cannot be sent."""
        with self.transaction() as connection:
            connection.execute("UPDATE events SET reason = ? WHERE id = ? AND state = 'failed'", (reason, row.id))

    # ---- for people

    def counts(self) -> Counts:
        """How many events are in each state; as fast for a million pending or delivered ones as for none."""
        return Counts(*self.connection.execute(COUNTS).fetchone())

    def oldest_pending(self) -> int | None:
        """When the pending event that waits longest was enqueued (UTC ms)."""
        found = self.connection.execute(
            "SELECT created_at FROM events WHERE state = 'pending' ORDER BY id LIMIT 1"
        ).fetchone()
        return None if found is None else int(found[0])

    def rows(self, state: State | None, limit: int) -> list[Row]:
        """The newest events first."""
        where = "1" if state is None else "state = ?"
        return self._rows(f"{where} ORDER BY id DESC LIMIT ?", (*([] if state is None else [state]), limit))

    def find(self, name: str) -> Row | None:
        """The event with this deployment_id, or with this number in ``queue list``."""
        found = self.find_exactly(name)
        if found is None and name.isascii() and name.isdigit() and len(name) < 19:
            return self.row(int(name))
        return found

    def find_exactly(self, deployment_id: str) -> Row | None:
        """The event with this deployment_id."""
        found = self._rows("deployment_id = ?", (deployment_id,))
        return found[0] if found else None

    def row(self, row_id: int) -> Row | None:
        """The event with this number."""
        found = self._rows("id = ?", (row_id,))
        return found[0] if found else None

    def of_build(self, deployment_id: str) -> list[Row]:
        """The events of one build: its id alone, or with ``:environment`` or ``@start`` behind it."""
        behind = [(deployment_id + mark, deployment_id + chr(ord(mark) + 1)) for mark in ":@"]
        return self._rows(
            "deployment_id = ? OR (deployment_id >= ? AND deployment_id < ?)"
            " OR (deployment_id >= ? AND deployment_id < ?) ORDER BY id",
            (deployment_id, *behind[0], *behind[1]),
        )

    def attempts(self, row: Row) -> list[Attempt]:
        """All attempts for an event, oldest first."""
        found = self.connection.execute(
            "SELECT at, duration_ms, http_status, verdict, answer FROM attempts WHERE event_id = ? ORDER BY id",
            (row.id,),
        ).fetchall()
        return [Attempt(*attempt) for attempt in found]

    def _rows(self, condition: str, values: Sequence[object]) -> list[Row]:
        found = self.connection.execute(f"SELECT {_ROW} FROM events WHERE {condition}", values).fetchall()  # noqa: S608
        return [msgspec.convert(dict(zip(Row.__struct_fields__, row, strict=True)), Row) for row in found]

    def find_damage(self) -> str | None:
        """What is broken in the file, None for a sound one. Reads all of it: a second for each few hundred megabytes.

        Raises :class:`agent.outbox.values.DamagedError`.
        """
        try:
            said = self.connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        except sqlite3.Error as error:
            raise outbox_connection.in_words(error, self.path) from error
        return None if said == "ok" else str(said)

    def try_writing(self) -> None:
        """Write something that changes nothing. Raises :class:`agent.outbox.values.OutboxError`."""
        with self.transaction() as connection:
            version = int(connection.execute("PRAGMA user_version").fetchone()[0])
            connection.execute(f"PRAGMA user_version = {version}")

    def last_repair(self) -> LastRepair | None:
        """When the file was last found damaged; None: never."""
        found = self.connection.execute(
            "SELECT at, moved_to, problem, events FROM repairs ORDER BY at DESC LIMIT 1"
        ).fetchone()
        return None if found is None else LastRepair(*found)

    # ---- the delivery's state

    def save_delivery_state(self, state: DeliveryState) -> None:
        """Tell other processes what the delivery is up to."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO delivery (id, state, since, reason, next_probe_at) VALUES (1, ?, ?, ?, ?)"
                " ON CONFLICT (id) DO UPDATE SET state = excluded.state, since = excluded.since,"
                " reason = excluded.reason, next_probe_at = excluded.next_probe_at",
                (state.state, state.since, state.reason, state.next_probe_at),
            )

    def delivery_state(self) -> DeliveryState | None:
        """What the delivery last said; None: it never ran."""
        found = self.connection.execute("SELECT state, since, reason, next_probe_at FROM delivery").fetchone()
        return None if found is None else DeliveryState(*found)


def _new_row(entry: Entry, now: int) -> tuple[object, ...]:
    """The values of ``INSERT``."""
    payload, state = _payload_and_state(entry)
    return (
        entry.deployment_id,
        state.value,  # sqlite3 takes much longer to find out that a member of an enum is a string
        payload,
        entry.source,
        entry.started_at,
        now,
        now if entry.hold_until is None else entry.hold_until,
        now if state is State.FAILED else None,
        entry.reason,
        entry.reported,
        id_hash(entry.deployment_id),
    )


def id_hash(deployment_id: str) -> bytes:
    """What is kept of the id of a deleted event: 12 bytes, enough to tell a hundred million apart."""
    return hashlib.blake2b(deployment_id.encode("utf-8", "surrogatepass"), digest_size=12).digest()


def _payload_and_state(entry: Entry) -> tuple[str | None, State]:
    payload = None if entry.event is None else events.encode(entry.event).decode()
    if entry.hold_until is not None:
        return payload, State.HELD
    return payload, State.FAILED if payload is None else State.PENDING


def _as_reused_number(entry: Entry) -> Entry:
    name = events.reused_number_id(entry.deployment_id, entry.started_at)
    return replace(entry, deployment_id=name, event=entry.event and events.renamed(entry.event, name))
