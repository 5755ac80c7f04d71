"""The log of epochs: who held which lease when, and what was written under it. Triggers in the database write it.

No agent takes part in it: the log shows what really was committed, and when, by the clock of the database.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.postgresql.fleet import Fleet

# What only the agent writes that polls the controller.
_TABLES = ("jobs", "open_builds", "controllers", "missed", "endings")
# n: each row of a lease is locked while its number is assigned, so the numbers of one controller are in the order in
# which leases were taken and transactions entered the fence.
_LOG = """
CREATE TABLE epochs (
    n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at double precision NOT NULL DEFAULT extract(epoch FROM clock_timestamp()),
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    what text NOT NULL,
    controller text NOT NULL,
    holder uuid,
    epoch bigint,
    free_from double precision
);
CREATE FUNCTION log_lease() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO epochs (what, controller, holder, epoch, free_from)
        VALUES (CASE WHEN NEW.epoch <> OLD.epoch THEN 'taken' ELSE 'released' END,
            NEW.controller, NEW.holder, NEW.epoch, OLD.expires_at / 1000.0);
    RETURN NULL;
END $$;
CREATE TRIGGER logged AFTER UPDATE ON leases FOR EACH ROW
    WHEN (OLD.epoch <> NEW.epoch OR OLD.holder IS DISTINCT FROM NEW.holder) EXECUTE FUNCTION log_lease();

ALTER FUNCTION holds_lease (text, uuid, bigint) RENAME TO holds_lease_itself;
CREATE FUNCTION holds_lease(name text, agent uuid, number bigint) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF NOT holds_lease_itself(name, agent, number) THEN RETURN false; END IF;
    INSERT INTO epochs (what, controller, holder, epoch) VALUES ('fence', name, agent, number);
    RETURN true;
END $$;

CREATE FUNCTION log_write() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO epochs (what, controller)
        VALUES ('written', CASE TG_OP WHEN 'DELETE' THEN to_jsonb(OLD) ELSE to_jsonb(NEW) END ->> TG_ARGV[0]);
    RETURN NULL;
END $$;
CREATE FUNCTION log_fact() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO epochs (what, controller) SELECT 'written', scope FROM projects WHERE id = NEW.project_id;
    RETURN NULL;
END $$;
CREATE TRIGGER logged AFTER INSERT ON facts FOR EACH ROW WHEN (NEW.source = 'poller') EXECUTE FUNCTION log_fact();
"""
_WRITES = """
CREATE TRIGGER logged AFTER INSERT OR UPDATE OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION log_write('{column}');
"""
_READ = """
SELECT what, controller, xid::text, coalesce(holder::text, ''), coalesce(epoch, 0), at,
        extract(epoch FROM pg_xact_commit_timestamp(xid::xid))::double precision, coalesce(free_from, 0)
    FROM epochs ORDER BY n
"""


@dataclass(frozen=True)
class Entry:
    """One line of the log. ``xid``: the transaction, which was committed at ``committed_at`` (seconds).

    ``free_from``: when the lease that was taken had expired or was released (0).
    """

    what: str
    controller: str
    xid: str
    holder: str = ""
    epoch: int = 0
    at: float = 0.0
    committed_at: float = 0.0
    free_from: float = 0.0


@dataclass
class Epoch:
    """One agent's time with one lease: when it took it, its transactions, and the rows that they wrote."""

    controller: str
    number: int
    holder: str
    taken_at: float
    transactions: int = 0
    rows: int = 0
    last_commit_at: float = 0.0


@dataclass
class Proof:
    """What the log shows. ``wrong``: what must not be, by its kind."""

    epochs: list[Epoch] = field(default_factory=list)
    wrong: Counter[str] = field(default_factory=Counter)

    def log(self) -> str:
        """The epochs as CSV."""
        lines = [
            f"{each.controller},{each.number},{each.holder},{each.taken_at:.3f},{each.last_commit_at:.3f},"
            f"{each.transactions},{each.rows}"
            for each in self.epochs
        ]
        return "\n".join(["controller,epoch,holder,taken_at,last_commit_at,transactions,rows", *lines]) + "\n"


def begin_log(fleet: Fleet) -> None:
    """Log from now on, in a database in which no agent has worked yet."""
    columns = dict.fromkeys(_TABLES, "controller") | {"controllers": "name"}
    fleet.execute(_LOG + "".join(_WRITES.format(table=table, column=column) for table, column in columns.items()))


def read_log(fleet: Fleet) -> list[Entry]:
    """All that was committed, in order."""
    return [Entry(*row) for row in fleet.execute(_READ)]


def prove(entries: Iterable[Entry]) -> Proof:
    """Check that no two agents were inside the fence of a controller, and that all of their writes were inside."""
    proof = Proof()
    by_controller: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        by_controller[entry.controller].append(entry)
    for controller, log in by_controller.items():
        _check(controller, log, proof)
    return proof


def _check(controller: str, log: list[Entry], proof: Proof) -> None:
    """The log of one controller."""
    now = Epoch(controller, 0, "", 0.0)
    last_commit_at = 0.0  # of all transactions so far
    within: dict[str, Epoch] = {}
    for entry in log:
        if entry.what == "taken":
            proof.wrong["leases taken with a wrong epoch"] += entry.epoch != now.number + 1
            proof.wrong["leases taken before they were free"] += entry.at < entry.free_from
            proof.wrong["two agents in a fence at once"] += entry.at < last_commit_at
            now = Epoch(controller, entry.epoch, entry.holder, entry.at)
            proof.epochs.append(now)
        elif entry.what == "fence":
            proof.wrong["fences entered without the lease"] += (entry.holder, entry.epoch) != (now.holder, now.number)
            within[entry.xid] = now
            now.transactions += 1
            now.last_commit_at = max(now.last_commit_at, entry.committed_at)
            last_commit_at = max(last_commit_at, entry.committed_at)
        elif entry.what == "written":
            proof.wrong["rows written outside of the fence"] += entry.xid not in within
            within.get(entry.xid, now).rows += 1
