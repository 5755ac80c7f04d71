"""PostgreSQL's errors in words: what happened, and what to do."""

from __future__ import annotations

import re

import psycopg

from agent.model.secrets import redact
from agent.outbox.values import OutboxError

# By SQLSTATE, or by its class, the first two characters.
_ADVICE = {
    "28": "check the user of [outbox] url, its password or client certificate, and pg_hba.conf of the server",
    "3D": "create the database, or correct [outbox] url",
    "42P07": "it has tables of another program; give it a database of its own",
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
    if isinstance(error, psycopg.ProgrammingError) and not code:  # libpq cannot read the URL
        return OutboxError(f"the outbox {name} cannot be used: {said}; {_URL}")
    return OutboxError(f"the outbox {name} cannot be used: {said}")


_URL = "correct [outbox] url"
# By words of a message without SQLSTATE; the first that fits.
_BY_WORDS = (
    (
        ("no password supplied",),
        "write the password to a file, and set [outbox] password_file; for another URL than [outbox] url, use"
        " ~/.pgpass",
    ),
    (
        ("private key file",),
        "give [outbox] client_key to the user of the agent with mode 0600, or to root with mode 0640",
    ),
    (("too many", "connection slots"), _ADVICE["53300"]),
    (("password", "authentication", "pg_hba", 'role "'), _ADVICE["28"]),
    (('" does not exist',), _ADVICE["3D"]),
    (("read-only", "hot standby"), _ADVICE["25006"]),  # of several hosts, all that answer are standbys
    (("starting up", "shutting down", "accepting connections", "recovery mode"), _ADVICE["57P"]),
    (
        ("permission denied for database",),
        "give the user of [outbox] url the right to connect: GRANT CONNECT ON DATABASE … TO …",
    ),
    (
        ("does not support ssl",),
        "turn on ssl in postgresql.conf of the server: only connections within a machine need no TLS",
    ),
    (("does not match host name",), "the host in [outbox] url must be a name in the certificate of the server"),
    (
        ("certificate verify failed",),
        "[outbox] ca_file must contain the authority that issued the certificate of the server, and the certificate"
        " must be valid today",
    ),
    (("requires a valid client certificate",), "set [outbox] client_certificate and client_key"),
    (
        ("unknown ca", "certificate expired", "bad certificate"),
        "the server does not trust [outbox] client_certificate: compare it with ssl_ca_file of the server",
    ),
    (
        ("negotiation", "wrong version number", "ssl response", "invalid response", "expected authentication request"),
        "is this the port of PostgreSQL? Correct [outbox] url",
    ),
    (("invalid port", ' value: "'), _URL),
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


# How psycopg lists the hosts that it tried, and what libpq writes before and after the reason.
_ATTEMPTS = "Multiple connection attempts failed. All failures were:"
_ATTEMPT = re.compile(
    r"- host: (?:'(?P<host>[^']*)'|None), port: '?(?P<port>\d*)'?, hostaddr: (?:'[^']*'|None): "
    r"(?P<why>.*?)(?= - host: |$)"
)
_BEFORE = re.compile(r"connection (?:failed|is bad): ")
_WHERE = re.compile(r'connection to server at "[^"]*"(?: \([^)]*\))?, port \d+ failed: ')
_AFTER = re.compile(r" Is the server running [^?]*\?")


def _one_line(error: psycopg.Error) -> str:
    primary = error.diag.message_primary
    text = _AFTER.sub("", " ".join((primary or str(error) or type(error).__name__).split()))
    first, several, attempts = _BEFORE.sub("", text).partition(_ATTEMPTS)
    if several:
        found = _ATTEMPT.finditer(attempts)
        reasons = [f"{each['host'] or ''}:{each['port']}: {_WHERE.sub('', each['why'])}" for each in found]
        first = ", ".join(dict.fromkeys(reasons)) or first
    return first[:500]
