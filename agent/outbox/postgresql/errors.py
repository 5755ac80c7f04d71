"""PostgreSQL's errors in words: what happened, and what to do."""

from __future__ import annotations

import psycopg

from agent.model.secrets import redact
from agent.outbox.values import OutboxError

# By SQLSTATE, or by its class, the first two characters.
_ADVICE = {
    "28": "check the user of [outbox] url, its password, and pg_hba.conf of the server",
    "3D": "create the database, or correct [outbox] url",
    "42501": "give the user of [outbox] url the database: ALTER DATABASE … OWNER TO …",
    "25006": "the server is a read-only standby, or the database is read-only; [outbox] url must name the primary."
    " The agent tries again",
    "53100": "the server's disk is full; free some space on it",
    "53300": "the server has no connection left; raise max_connections, or use PgBouncer",
    "53": "the server lacks memory or disk space",
    "54": "a name is too long for an index of PostgreSQL; it cannot be stored",
    "57P": "the server starts or stops; the agent tries again",
    "55P03": "another transaction holds a lock for too long; see pg_stat_activity of the server",
    "57014": "the statement took too long; see pg_stat_activity of the server",
    "40": "another agent changed the same rows at the same time; the agent tries again",
    "25P03": "this process stood still within a transaction; nothing of it is stored",
    "XX": "see the log of the server; it may need a repair or its backup",
}


def in_words(error: psycopg.Error, name: str) -> OutboxError:
    """The error for people. ``name``: of the server."""
    said = redact(_one_line(error))
    code = error.sqlstate or ""
    for length in (5, 3, 2):
        if (advice := _ADVICE.get(code[:length])) is not None and code:
            return OutboxError(f"the outbox {name} cannot be used: {said}; {advice}")
    if isinstance(error, psycopg.OperationalError):
        return OutboxError(f"cannot reach the outbox {name}: {said}; {_why_unreachable(said)}")
    return OutboxError(f"the outbox {name} cannot be used: {said}")


# By words of a message without SQLSTATE; the first that fits.
_BY_WORDS = (
    (("password", "authentication", "pg_hba"), _ADVICE["28"]),
    (('" does not exist',), _ADVICE["3D"]),
    (("read-only", "hot standby"), _ADVICE["25006"]),  # of several hosts, all that answer are standbys
    (
        ("permission denied for database",),
        "give the user of [outbox] url the right to connect: GRANT CONNECT ON DATABASE … TO …",
    ),
    (
        ("does not support ssl",),
        "turn on ssl in postgresql.conf of the server: only connections within a machine need no TLS",
    ),
    (
        ("certificate", "ssl"),
        "check [outbox] ca_file, client_certificate and client_key, and the certificate of the server",
    ),
)


def _why_unreachable(said: str) -> str:
    lower = said.lower()
    for words, advice in _BY_WORDS:
        if any(each in lower for each in words):
            return advice
    return "is the server running, and is [outbox] url correct? The agent tries again"


def _one_line(error: psycopg.Error) -> str:
    primary = error.diag.message_primary
    text = primary or str(error) or type(error).__name__
    return " ".join(text.split())[:500]
