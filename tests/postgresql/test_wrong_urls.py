"""An `[outbox] url` that does not work: the error says what is wrong and what to do, without the password."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent.config.credentials import Token
from agent.outbox.postgresql import connection as connections
from agent.outbox.postgresql.connection import Connection
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
        ("/{database}", "/{database}?bogus=1", "bogus"),
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
