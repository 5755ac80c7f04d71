"""One connection to the server: opened when it is needed, and opened again after it broke.

Everything works through PgBouncer in transaction mode: no state of the session is used, and settings are made within a
transaction. Statements are prepared only if no pooler is in between.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self

import psycopg
from psycopg.types.string import StrDumperUnknown

from agent.config.credentials import TokenError
from agent.outbox.postgresql.errors import in_words
from agent.outbox.values import OutboxError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from agent.outbox.postgresql.pool import Pool
    from agent.outbox.postgresql.server import Server

Row = tuple[Any, ...]
# As libpq writes version 15.
OLDEST = 150_000


class Connection:
    """A connection. One thread at a time may use it.

    Statements outside of a transaction only read. So, if the connection turns out to be broken, such a statement and
    BEGIN are tried once more with a new connection.

    ``pool``: the connection is taken from it for each statement and each transaction, and then given back.
    """

    def __init__(self, server: Server, pool: Pool | None = None) -> None:
        self.server = server
        self._pool = pool
        self._open: psycopg.Connection[Row] | None = None
        self._begin: str | None = None

    @property
    def name(self) -> str:
        """The server, for messages."""
        return self.server.name

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction has begun and not ended, and the connection is alive."""
        if self._begin is not None:
            return True
        now = self._open
        return now is not None and not now.closed and now.info.transaction_status in _WITHIN

    @property
    def failed(self) -> bool:
        """Whether a statement of the transaction has failed: it can only be rolled back."""
        now = self._open
        return now is not None and now.info.transaction_status is psycopg.pq.TransactionStatus.INERROR

    def begin(self, sql: str) -> None:
        """Begin a transaction: BEGIN is sent before the first statement. Without one, nothing is sent."""
        self._begin = sql

    def end(self, sql: str) -> None:
        """COMMIT or ROLLBACK. Raises the same as :meth:`execute`."""
        if self._begin is None:
            self.execute(sql)
        self._begin = None

    def execute(self, sql: str, values: Any = None) -> psycopg.Cursor[Row]:
        """One statement. Raises :class:`psycopg.Error`, and :class:`OutboxError` if no connection can be opened.

        A place of a value is a question mark, as in :mod:`agent.outbox.sql`, or what psycopg uses.
        """
        self._send_begin()
        try:
            return self._execute(_marked(sql), values)
        finally:
            self._give_back()

    def execute_at_first(self, sql: str) -> None:
        """One statement without values. As the first one of a transaction, it is sent in one message with BEGIN."""
        begin, self._begin = self._begin, None
        self.execute(sql if begin is None else f"{begin}; {sql}")

    def _send_begin(self) -> None:
        begin, self._begin = self._begin, None
        if begin is not None:
            self.execute(begin)

    def _execute(self, sql: str, values: Any) -> psycopg.Cursor[Row]:
        usual = self._usual()
        if usual.info.transaction_status in _WITHIN:
            return usual.execute(sql, values)
        try:
            return usual.execute(sql, values)
        except psycopg.OperationalError:
            if not usual.closed:
                raise
        if self._pool is not None:  # the others broke at the same time
            self._pool.clear()
        return self._usual().execute(sql, values)

    def executemany(self, sql: str, values: Iterable[Any]) -> None:
        """The statement for each of these values, in few round trips. Raises the same as :meth:`execute`."""
        listed = list(values)
        if not listed:
            return
        self._send_begin()
        try:
            self._usual().cursor().executemany(_marked(sql), listed)
        finally:
            self._give_back()

    def all(self, sql: str, values: Any = None) -> list[Row]:
        """All rows. Raises :class:`OutboxError`."""
        with self.words():
            return self.execute(sql, values).fetchall()

    def one(self, sql: str, values: Any = None) -> Row | None:
        """The first row. Raises :class:`OutboxError`."""
        with self.words():
            return self.execute(sql, values).fetchone()

    @contextmanager
    def words(self) -> Iterator[None]:
        """Convert errors of the block to :class:`OutboxError`."""
        try:
            yield
        except psycopg.Error as error:
            raise in_words(error, self.name) from error

    def another(self) -> Connection:
        """A second connection to the same server."""
        return Connection(self.server)

    def usual(self) -> psycopg.Connection[Row]:
        """The open connection, in autocommit mode. Raises the same as :meth:`execute`."""
        self._send_begin()
        return self._usual()

    def close(self) -> None:
        """Close it. The next statement opens a new one."""
        self._begin = None
        if self._open is not None:
            with suppress(psycopg.Error):
                self._open.close()
            self._give_back()
            self._open = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _usual(self) -> psycopg.Connection[Row]:
        if self._open is None or self._open.closed:
            self._give_back()
            self._open = None
            self._open = connect(self.server) if self._pool is None else self._pool.take()
        return self._open

    def _give_back(self) -> None:
        """To the pool, when it is broken or no transaction is open."""
        now = self._open
        if self._pool is not None and now is not None and (now.closed or now.info.transaction_status not in _WITHIN):
            self._open = None
            self._pool.give(now)


_WITHIN = (psycopg.pq.TransactionStatus.INTRANS, psycopg.pq.TransactionStatus.INERROR)


@lru_cache(maxsize=1_000)
def _marked(sql: str) -> str:
    """The statement with the marks of psycopg. No statement has a question mark for anything else."""
    return sql.replace("?", "%s")


def connect(server: Server) -> psycopg.Connection[Row]:
    """A new connection in autocommit mode. Raises :class:`OutboxError`."""
    try:
        opened = psycopg.connect(server.url, autocommit=True, **server.parameters())  # type: ignore[arg-type]
    except psycopg.Error as error:
        raise in_words(error, server.name) from error
    except TokenError as error:
        raise OutboxError(f"cannot open the outbox {server.name}: {error}") from error
    try:
        _refuse_unfit(opened, server.name)
        opened.adapters.register_dumper(str, _Text)
        if _is_pooled(opened):
            opened.prepare_threshold = None
    except psycopg.Error as error:
        opened.close()
        raise in_words(error, server.name) from error
    except OutboxError:
        opened.close()
        raise
    return opened


def _refuse_unfit(connection: psycopg.Connection[Row], name: str) -> None:
    """A server that is too old, and a database that cannot store all characters."""
    if connection.info.server_version < OLDEST:
        found = connection.info.parameter_status("server_version")
        raise OutboxError(f"the outbox {name} needs PostgreSQL {OLDEST // 10_000} or newer; the server is {found}")
    encoding = connection.info.parameter_status("server_encoding")
    if encoding not in ("UTF8", None):
        raise OutboxError(
            f"the database of the outbox {name} cannot store all characters: its encoding is {encoding}; create it with"
            " ENCODING 'UTF8' LOCALE 'C' TEMPLATE template0"
        )


def _is_pooled(connection: psycopg.Connection[Row]) -> bool:
    """Whether a pooler is in between: it tells its clients another process id than the server's."""
    found = connection.execute("SELECT pg_backend_pid()").fetchone()
    return found is None or found[0] != connection.info.backend_pid


class _Text(StrDumperUnknown):
    """PostgreSQL's texts cannot contain NUL, and UTF-8 has no lone surrogates."""

    def dump(self, obj: str) -> bytes:
        return obj.encode("utf-8", "backslashreplace").replace(b"\0", b"\xef\xbf\xbd")
