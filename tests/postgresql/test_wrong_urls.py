"""An `[outbox] url` that does not work: the error says what is wrong and what to do, without the password."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from agent.config.credentials import Token
from agent.outbox.postgresql import connection as connections
from agent.outbox.postgresql.connection import Connection
from agent.outbox.postgresql.errors import in_words
from agent.outbox.postgresql.migrations import migrate
from agent.outbox.postgresql.server import Server
from agent.outbox.values import OutboxError
from tests.postgresql.cluster import PASSWORD, USER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.postgresql.cluster import Cluster

WEAK = "user_without_rights"


@pytest.fixture
def weak(cluster: Cluster) -> Iterator[str]:
    """A user who owns nothing."""
    cluster.execute(f"CREATE ROLE {WEAK} LOGIN PASSWORD $${PASSWORD}$$")
    yield WEAK
    cluster.execute(f"DROP ROLE {WEAK}")


def refused(url: str, password: str = PASSWORD) -> str:
    with Connection(Server(url, Token(password))) as connection, pytest.raises(OutboxError) as raised:
        migrate(connection)
    assert password not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    ("part", "instead", "words"),
    [
        ("/{database}", "/nowhere", "create the database, or correct"),
        ("{user}@", "somebody@", "check the user of"),
        ("127.0.0.1", "db.invalid", "is the server running, and is"),
        (":{port}", ":1", "is the server running, and is"),
        ("/{database}", "/{database}?sslmode=require", "turn on ssl in postgresql.conf"),
        ("/{database}", "/{database}?bogus=1", '"bogus"; correct [outbox] url'),
        ("/{database}", "/{database}?sslmode=full", 'invalid sslmode value: "full"; correct [outbox] url'),
        ("{user}@", "a%gent@", 'invalid percent-encoded token: "a%gent"; correct [outbox] url'),
    ],
)
def test_a_wrong_part_of_the_url_is_named(cluster: Cluster, database: str, part: str, instead: str, words: str) -> None:
    known = {"database": database, "user": USER, "port": cluster.port}
    url = cluster.url(database, tcp=True).replace(part.format(**known), instead.format(**known))
    assert words in refused(url)


def test_a_wrong_password_is_not_shown(cluster: Cluster, database: str) -> None:
    assert "check the user of" in refused(cluster.url(database, tcp=True), "wrong-password-of-somebody")


def test_the_missing_right_is_named(cluster: Cluster, weak: str) -> None:
    database = cluster.new_database()
    url = cluster.url(database, tcp=True).replace(f"{USER}@", f"{weak}@")
    try:
        assert "ALTER DATABASE … OWNER TO" in refused(url)
        cluster.execute(f"REVOKE ALL ON DATABASE {database} FROM PUBLIC")
        assert "GRANT CONNECT ON DATABASE" in refused(url)
    finally:
        cluster.drop(database)


def test_a_server_that_is_too_old_is_refused(cluster: Cluster, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    [(version,)] = cluster.execute("SHOW server_version")
    monkeypatch.setattr(connections, "OLDEST", 990_000)
    assert f"needs PostgreSQL 99 or newer; the server is {version}" in refused(cluster.url(database))


def test_too_many_connections_are_named(cluster: Cluster, weak: str) -> None:
    url = cluster.url("postgres", tcp=True).replace(f"{USER}@", f"{weak}@")
    cluster.execute(f"ALTER ROLE {weak} CONNECTION LIMIT 0")
    assert "raise max_connections, or use PgBouncer" in refused(url)


def test_a_user_who_may_not_log_in_is_named(cluster: Cluster, weak: str) -> None:
    url = cluster.url("postgres", tcp=True).replace(f"{USER}@", f"{weak}@")
    cluster.execute(f"ALTER ROLE {weak} NOLOGIN")
    assert "check the user of" in refused(url)


def test_without_a_password_the_error_says_where_to_write_it(cluster: Cluster, database: str) -> None:
    with Connection(Server(cluster.url(database, tcp=True))) as connection, pytest.raises(OutboxError) as raised:
        connection.one("SELECT 1")
    assert "set [outbox] password_file" in str(raised.value)


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_with_another_encoding_is_refused(cluster: Cluster, encoding: str) -> None:
    """Names and messages have any characters. SQL_ASCII is what initdb takes where no locale is set."""
    cluster.execute(f"CREATE DATABASE encoded ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
    try:
        said = refused(cluster.url("encoded"))
        assert f"its encoding is {encoding}; create it with ENCODING 'UTF8'" in said
    finally:
        cluster.drop("encoded")


def test_a_client_encoding_of_the_user_is_not_used(cluster: Cluster, weak: str) -> None:
    cluster.execute(f"ALTER ROLE {weak} SET client_encoding = 'LATIN1'")
    url = cluster.url("postgres", tcp=True).replace(f"{USER}@", f"{weak}@")
    with Connection(Server(url, Token(PASSWORD))) as connection:
        assert connection.one("SELECT %s::text", ("\u65e5\u672c",)) == ("\u65e5\u672c",)


def test_the_tables_of_another_program_are_named(cluster: Cluster) -> None:
    database = cluster.new_database()
    cluster.execute("CREATE TABLE deployments (id int)", database)
    try:
        assert "give it a database of its own" in refused(cluster.url(database))
    finally:
        cluster.drop(database)


def test_of_several_hosts_each_is_named_once_with_its_reason(cluster: Cluster, database: str) -> None:
    url = cluster.url(database, tcp=True).replace(f"127.0.0.1:{cluster.port}", f"127.0.0.1:1,127.0.0.1:{cluster.port}")
    said = refused(url, "wrong-password-of-somebody")
    assert (
        "127.0.0.1:1: Connection refused, "
        f'127.0.0.1:{cluster.port}: FATAL: password authentication failed for user "{USER}"; check the user' in said
    )


def test_the_addresses_of_one_host_are_one_reason() -> None:
    """As psycopg says it, for a name with an IPv6 and an IPv4 address."""
    attempts = [
        f"- host: 'db', port: '5432', hostaddr: '{address}': connection failed: connection to server at"
        f' "{address}", port 5432 failed: Connection refused\n\tIs the server running on that host and accepting'
        " TCP/IP connections?"
        for address in ("::1", "127.0.0.1")
    ]
    text = "\n".join(["the last one", "Multiple connection attempts failed. All failures were:", *attempts])
    assert str(in_words(psycopg.OperationalError(text), "postgresql://db/outbox")) == (
        "cannot reach the outbox postgresql://db/outbox: db:5432: Connection refused; is the server running, and is"
        " [outbox] url correct? The agent tries again"
    )
