"""The leases of a fleet in PostgreSQL. All times are those of the database: see `now_ms()` in the migrations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agent.outbox.leases import Agent, Lease, Member, View
from agent.outbox.postgresql.migrations import refuse_newer
from agent.outbox.shared import Hint
from agent.outbox.values import LeaseLostError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from agent.outbox.clock import DatabaseClock
    from agent.outbox.leases import Fence
    from agent.outbox.postgresql.connection import Connection

# How long agents that were not seen stay in the list.
_REMEMBERED_MS = 86_400_000
# Bounds of the time in which nothing happens within a transaction.
_LEAST_STILL_MS, _MOST_STILL_MS = 3_000, 30_000

_DECLARE = "INSERT INTO leases (controller) SELECT unnest(%s::text[]) ON CONFLICT DO NOTHING"
# The agents that were seen lately and what each has, and what a Member says of one.
_SEEN = (
    "SELECT agents.*, (SELECT count(*) FROM leases WHERE holder = agents.id AND expires_at > now_ms()) AS holds"
    " FROM agents WHERE seen_at > now_ms() - %(remembered)s"
)
_MEMBER = "id::text, name, version, pid, now_ms() - seen_at, seen_at > now_ms() - ttl_ms, leaving, holds"
_MEMBERS = f"SELECT {_MEMBER} FROM ({_SEEN}) AS members ORDER BY started_at, id"  # noqa: S608
# One statement, one round trip. It sees the tables as they were before, without this agent's renewal. What it says of
# this agent comes from the parts that change it.
_RENEW = f"""
WITH seen AS (
    INSERT INTO agents (id, name, version, pid, started_at, seen_at, ttl_ms)
        VALUES (%(me)s, %(name)s, %(version)s, %(pid)s, now_ms(), now_ms(), %(ttl)s)
        ON CONFLICT (id) DO UPDATE SET seen_at = now_ms(), ttl_ms = %(ttl)s
        RETURNING *
), mine AS (
    UPDATE leases SET expires_at = now_ms() + %(ttl)s WHERE holder = %(me)s RETURNING controller, epoch
), members AS (
    SELECT seen.*, (SELECT count(*) FROM mine) AS holds FROM seen
    UNION ALL
    {_SEEN} AND id <> %(me)s
)
SELECT
    (SELECT leaving FROM seen),
    (SELECT jsonb_object_agg(controller, epoch) FROM mine),
    (SELECT jsonb_agg(controller) FROM leases WHERE holder IS DISTINCT FROM %(me)s AND expires_at <= now_ms()),
    (SELECT min(expires_at) - now_ms() FROM leases WHERE holder <> %(me)s AND expires_at > now_ms()),
    now_ms(), (SELECT max(version) FROM schema_version), (SELECT max(agents_since) FROM schema_version),
    (SELECT jsonb_agg(jsonb_build_array({_MEMBER}) ORDER BY started_at, id) FROM members)
"""  # noqa: S608
_TAKE = """
WITH free AS (
    SELECT controller FROM leases WHERE controller = ANY(%(those)s) AND expires_at <= now_ms()
        ORDER BY array_position(%(those)s, controller) LIMIT %(most)s FOR UPDATE SKIP LOCKED
)
UPDATE leases AS l SET holder = %(me)s, epoch = l.epoch + 1, expires_at = now_ms() + %(ttl)s
    FROM free WHERE l.controller = free.controller RETURNING l.controller, l.epoch
"""
_RELEASE = """
WITH released AS (
    UPDATE leases SET holder = NULL, expires_at = 0 WHERE holder = %s AND controller = ANY(%s) RETURNING 1
)
SELECT pg_notify(%s, '') FROM (SELECT count(*) AS n FROM released) AS those WHERE n > 0
"""
_LEAVE = """
WITH gone AS (
    DELETE FROM agents WHERE id = %(me)s OR seen_at < now_ms() - %(remembered)s
), released AS (
    UPDATE leases SET holder = NULL, expires_at = 0 WHERE holder = %(me)s
)
SELECT pg_notify(%(channel)s, '')
"""
_LEASES = "SELECT controller, holder::text, epoch, expires_at - now_ms() FROM leases ORDER BY controller"
_HOLDS = "SELECT set_config('idle_in_transaction_session_timeout', %s, true), holds_lease(%s, %s, %s)"
_LEAVING = """
WITH asked AS (UPDATE agents SET leaving = %s WHERE id = ANY(%s::uuid[]) RETURNING 1)
SELECT pg_notify(%s, '') FROM (SELECT count(*) FROM asked) AS those
"""


class Leases:
    """See :class:`agent.outbox.leases.LeaseTable`. It uses its connection for nothing else."""

    def __init__(self, connection: Connection, clock: DatabaseClock | None = None) -> None:
        """``clock``: is told the time with each renewal."""
        self._connection = connection
        self._clock = clock

    def declare(self, controllers: Collection[str]) -> None:
        """See the protocol."""
        with self._connection.words():
            self._connection.execute(_DECLARE, (list(controllers),))

    def renew(self, me: Agent, ttl_ms: int) -> View:
        """See the protocol."""
        values = {
            "me": me.id,
            "name": me.name,
            "version": me.version,
            "pid": me.pid,
            "ttl": ttl_ms,
            "remembered": _REMEMBERED_MS,
        }
        [found] = self._connection.all(_RENEW, values)
        leaving, mine, free, next_expiry_ms, now_ms, version, since, members = found
        refuse_newer(self._connection.name, version, since)
        if self._clock is not None:
            self._clock.tell(now_ms)
        return View(mine or {}, free or [], [_member(each) for each in members], next_expiry_ms, leaving)

    def take(self, me: Agent, controllers: Sequence[str], most: int, ttl_ms: int) -> dict[str, int]:
        """See the protocol."""
        values = {"those": list(controllers), "most": most, "me": me.id, "ttl": ttl_ms}
        return dict(self._connection.all(_TAKE, values))

    def release(self, me: Agent, controllers: Collection[str]) -> None:
        """See the protocol."""
        self._connection.all(_RELEASE, (me.id, list(controllers), Hint.LEASES.value))

    def leave(self, me: Agent) -> None:
        """See the protocol."""
        self._connection.all(_LEAVE, {"me": me.id, "remembered": _REMEMBERED_MS, "channel": Hint.LEASES.value})

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    # ---- for people

    def members(self) -> list[Member]:
        """The agents that were seen in the last day, oldest first."""
        return [_member(row) for row in self._connection.all(_MEMBERS, {"remembered": _REMEMBERED_MS})]

    def leases(self) -> list[Lease]:
        """All leases, by controller."""
        return [Lease(*row) for row in self._connection.all(_LEASES)]

    def ask_to_leave(self, agents: Collection[str], *, leaving: bool) -> None:
        """Let these agents give their controllers to the others, or take some again."""
        self._connection.all(_LEAVING, (leaving, list(agents), Hint.LEASES.value))


def _member(row: Sequence[Any]) -> Member:
    agent, name, version, pid, *seen = row
    return Member(Agent(agent, name, version, pid), *seen)


def longest_stillness_ms(lease_ms: int) -> int:
    """How long an agent may do nothing within a transaction: then the lease has not expired yet, if it was renewed."""
    return min(max(lease_ms * 2 // 3, _LEAST_STILL_MS), _MOST_STILL_MS)


@dataclass(frozen=True)
class LeaseFence:
    """The begin of each transaction of a poll: the lease is still held, and stays so until the transaction ends.

    ``still_ms``: the server ends a transaction in which nothing happens for so long. Otherwise an agent that is frozen
    or cut off would keep its controller for as long as the network needs to notice.
    """

    fence: Fence
    still_ms: int = _MOST_STILL_MS

    def check(self, connection: Connection) -> None:
        """Raises :class:`LeaseLostError`."""
        fence = self.fence
        held = connection.one(_HOLDS, (str(self.still_ms), fence.controller, fence.holder, fence.epoch))
        if held is None or not held[1]:
            raise LeaseLostError(
                f"the lease of controller {fence.controller} was lost: another agent polls it now, or this agent"
                " stood still for too long"
            )
