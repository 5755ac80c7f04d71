"""Which engine has the outbox of a configuration, and what only an outbox for several agents has."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol
from uuid import uuid4

from agent import __version__
from agent.outbox.clock import DatabaseClock
from agent.outbox.leases import Agent
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.outbox.values import OutboxError

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.config.settings import Settings
    from agent.model.times import Clock
    from agent.outbox.interface import Outbox
    from agent.outbox.leases import Fence
    from agent.outbox.postgresql.connection import Connection
    from agent.outbox.postgresql.hints import Hints
    from agent.outbox.postgresql.leases import Leases
    from agent.outbox.postgresql.pool import Pool
    from agent.outbox.postgresql.server import Server
    from agent.outbox.postgresql.shared import Moved, Shared


class Engine(Protocol):
    """Opens the outbox. Raises :class:`agent.outbox.values.OutboxError`. ``clock``: that of all who use it."""

    @property
    def clock(self) -> Clock:
        """The agent's clock, or that of the database."""
        ...

    def open(self, *, read_only: bool = False) -> Outbox:
        """A connection for one thread."""
        ...


@dataclass(frozen=True)
class SqliteEngine:
    """The outbox in a file of this machine. ``enqueued``: see :meth:`agent.outbox.interface.Outbox.when_enqueued`."""

    settings: Settings
    clock: Clock
    enqueued: Callable[[], object] | None = None

    def open(self, *, read_only: bool = False) -> Outbox:
        """See the protocol."""
        settings = self.settings
        most = settings.max_size_bytes
        opened = SqliteOutbox(settings.outbox, self.clock, max_size=most, read_only=read_only)
        if self.enqueued is not None:
            opened.when_enqueued(self.enqueued)
        return opened


@dataclass(frozen=True)
class Connections:
    """What the leases of an agent need: a connection for them, and one that listens."""

    leases: Leases
    hints: Hints

    def close(self) -> None:
        """Close both."""
        self.leases.close()
        self.hints.close()


@dataclass(frozen=True)
class PostgresqlEngine:
    """The outbox in PostgreSQL. psycopg is loaded here.

    ``fence``: what is written must be allowed by this lease. ``pool``: connections that several openers share.
    ``enqueued``: see :meth:`agent.outbox.interface.Outbox.when_enqueued`; None: this process sends nothing, so all
    agents are told what becomes due.
    """

    server: Server
    settings: Settings
    clock: DatabaseClock
    fence: Fence | None = None
    pool: Pool | None = None
    enqueued: Callable[[], object] | None = None

    def open(self, *, read_only: bool = False) -> Outbox:
        """See the protocol."""
        from agent.outbox.postgresql.engine import PostgresqlOutbox  # noqa: PLC0415
        from agent.outbox.postgresql.leases import LeaseFence, longest_stillness_ms  # noqa: PLC0415

        most = self.settings.max_size_bytes
        opened = PostgresqlOutbox(self.server, self.clock, max_size=most, read_only=read_only, pool=self.pool)
        if self.enqueued is None:
            opened.announce()
        else:
            opened.when_enqueued(self.enqueued)
        if self.fence is not None:
            opened.fence(LeaseFence(self.fence, longest_stillness_ms(self.settings.lease_ms)))
        return opened

    def pooled(self, most: int) -> PostgresqlEngine:
        """The same with at most so many connections for all that is opened."""
        from agent.outbox.postgresql.pool import Pool  # noqa: PLC0415

        return replace(self, pool=Pool(self.server, most))

    def under(self, fence: Fence) -> PostgresqlEngine:
        """The same for the polls of one controller."""
        return replace(self, fence=fence)

    def close(self) -> None:
        """Close the connections of the pool that are not in use."""
        if self.pool is not None:
            self.pool.clear()

    def connections(self) -> Connections:
        """For the leases. They are opened when they are needed."""
        from agent.outbox.postgresql.connection import Connection  # noqa: PLC0415
        from agent.outbox.postgresql.hints import Hints  # noqa: PLC0415
        from agent.outbox.postgresql.leases import Leases  # noqa: PLC0415

        return Connections(Leases(Connection(self.server), self.clock), Hints(Connection(self.server)))


def leases_of(settings: Settings) -> Leases | None:
    """The leases of the agents that share the outbox, to be closed after use; None: it is not shared."""
    server = server_of(settings)
    if server is None:
        return None
    from agent.outbox.postgresql.connection import Connection  # noqa: PLC0415
    from agent.outbox.postgresql.leases import Leases  # noqa: PLC0415

    return Leases(Connection(server))


def leases_by(outbox: Outbox) -> Leases | None:
    """The same by the connection of this outbox, with which they end; None: it is not shared."""
    if isinstance(outbox, SqliteOutbox):
        return None
    from agent.outbox.postgresql.leases import Leases  # noqa: PLC0415

    return Leases(_connection(outbox))


def moved_by(outbox: Outbox) -> Moved:
    """Which reports were moved up, in the transactions of this outbox of a :class:`PostgresqlEngine`."""
    from agent.outbox.postgresql.shared import Moved  # noqa: PLC0415

    return Moved(_connection(outbox))


def shared_by(outbox: Outbox) -> Shared:
    """What all dispatchers share, by the connection of this outbox of a :class:`PostgresqlEngine`."""
    from agent.outbox.postgresql.shared import Shared  # noqa: PLC0415

    return Shared(_connection(outbox))


def _connection(outbox: Outbox) -> Connection:
    """What is stored beside the outbox takes part in its transactions."""
    from agent.outbox.postgresql.part import Part  # noqa: PLC0415

    if not isinstance(outbox, Part):
        raise TypeError(f"{type(outbox).__name__} has no connection to PostgreSQL")
    return outbox.connection


def is_shared(settings: Settings) -> bool:
    """Whether several agents can work on the outbox of this configuration."""
    return server_of(settings) is not None


def server_of(settings: Settings) -> Server | None:
    """The server of ``[outbox] url``; None: the outbox is a file.

    Raises :class:`agent.outbox.values.OutboxError` if psycopg is not installed.
    """
    found = settings.postgresql
    if found is None:
        return None
    require_psycopg()
    from agent.outbox.postgresql.server import Server  # noqa: PLC0415

    tls = found.tls
    return Server(found.url, found.password, tls.ca_file, tls.client_certificate, tls.client_key)


def require_psycopg() -> None:
    """Raises :class:`agent.outbox.values.OutboxError` if it is not installed."""
    if find_spec("psycopg") is None:
        raise OutboxError(
            "PostgreSQL needs psycopg, which is not installed; run: pip install 'hivel-jenkins-agent[postgresql]'"
        )


def name_of(settings: Settings) -> str:
    """Where the outbox is, for people: the file, or the hosts and the database."""
    server = server_of(settings)
    return str(settings.outbox) if server is None else server.name


def myself() -> Agent:
    """This process. Its id is new each time: a name can return while an earlier process still lives."""
    return Agent(str(uuid4()), socket.gethostname(), __version__, os.getpid())


def engine_of(settings: Settings, clock: Clock, enqueued: Callable[[], object] | None = None) -> Engine:
    """The engine of ``[outbox]``. ``enqueued``: called when something is due; None: this process does not send it."""
    server = server_of(settings)
    if server is None:
        return SqliteEngine(settings, clock, enqueued)
    shared = clock if isinstance(clock, DatabaseClock) else DatabaseClock(clock)
    return PostgresqlEngine(server, settings, shared, enqueued=enqueued)
