"""Connections with TLS: who is trusted, client certificates, and errors that say what to correct."""

from __future__ import annotations

import shutil
import socket
import ssl
from contextlib import closing
from dataclasses import dataclass
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest

from agent.config.credentials import Token
from agent.outbox.postgresql import server as servers
from agent.outbox.postgresql.connection import Connection
from agent.outbox.postgresql.server import Server
from agent.outbox.values import OutboxError
from tests.postgresql.certificates import Authority, TlsCluster, running_tls_cluster
from tests.postgresql.cluster import PASSWORD, USER, missing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TO_PASSWORD = f"hostssl all {USER} 127.0.0.1/32 scram-sha-256"


@dataclass
class World:
    """A server whose certificate is for localhost, and the authority that issued it."""

    authority: Authority
    certificate: Path
    server: TlsCluster
    folder: Path

    def url(self, query: str = "") -> str:
        return f"postgresql://{USER}@localhost:{self.server.cluster.port}/postgres{query}"

    def server_of(self, **changed: Any) -> Server:
        files = {"ca_file": self.authority.file, "password": Token(PASSWORD), **changed}
        return Server(files.pop("url", self.url()), **files)

    def connect(self, **changed: Any) -> None:
        """Raises an error if the connection is not encrypted."""
        with Connection(self.server_of(**changed)) as connection:
            [[encrypted]] = connection.all("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        assert encrypted

    def refused(self, **changed: Any) -> str:
        with pytest.raises(OutboxError) as raised:
            self.connect(**changed)
        said = str(raised.value)
        assert PASSWORD not in said and "\n" not in said
        return said


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    if (why := missing()) is not None:
        pytest.skip(why)
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    folder = tmp_path_factory.mktemp("certificates")
    authority = Authority(folder)
    certificate = authority.issue("server", "localhost", "localhost")
    with running_tls_cluster(certificate) as server:
        yield World(authority, certificate, server, folder)


@pytest.fixture
def world(started: World) -> World:
    """With the right certificate, and a password without a client certificate."""
    started.server.use(started.certificate)
    started.server.allow(TO_PASSWORD)
    return started


def test_the_authority_of_ca_file_is_trusted(world: World) -> None:
    world.connect()
    world.connect(url=world.url("?sslmode=verify-full"))


def test_without_a_ca_file_the_authorities_of_the_system_are_trusted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """psycopg's wheel has an OpenSSL of its own, which looks for them in a folder that does not exist."""
    monkeypatch.setattr(servers, "is_local", lambda _: False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(world.authority.file))
    world.connect(ca_file=None)
    monkeypatch.setenv("SSL_CERT_FILE", str(Authority(world.folder, "another").file))
    assert "certificate verify failed" in world.refused(ca_file=None)


def test_the_file_of_the_systems_authorities_is_found_without_the_environment(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "is_local", lambda _: False)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    nothing = ssl.DefaultVerifyPaths(None, None, "SSL_CERT_FILE", "/nowhere", "SSL_CERT_DIR", "/nowhere")  # type: ignore[arg-type]
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: nothing)
    monkeypatch.setattr(servers, "BUNDLES", ("/nowhere", str(world.authority.file)))
    world.connect(ca_file=None)


def test_a_server_of_another_authority_is_refused_even_on_this_machine(world: World) -> None:
    said = world.refused(ca_file=Authority(world.folder, "other").file)
    assert "certificate verify failed; [outbox] ca_file must contain the authority that issued" in said


def test_an_expired_certificate_is_refused(world: World) -> None:
    world.server.use(world.authority.issue("expired", "localhost", days=-1))
    assert "the certificate must be valid today" in world.refused()


def test_a_certificate_for_another_name_is_refused(world: World) -> None:
    world.server.use(world.authority.issue("elsewhere", "db.example.com", "db.example.com"))
    said = world.refused()
    assert 'server certificate for "db.example.com" does not match host name "localhost"' in said
    assert "the host in [outbox] url must be a name in the certificate of the server" in said


class TestClientCertificates:
    """The server asks for the password and a certificate of its user."""

    @pytest.fixture(autouse=True)
    def asked(self, world: World) -> None:
        world.server.trust(world.authority.file)
        world.server.allow(f"{TO_PASSWORD} clientcert=verify-full")

    def test_a_certificate_with_its_key(self, world: World) -> None:
        certificate = world.authority.issue("client", USER)
        world.connect(client_certificate=certificate, client_key=certificate.with_suffix(".key"))

    def test_the_key_can_be_in_the_file_of_the_certificate(self, world: World) -> None:
        certificate = world.authority.issue("client", USER)
        both = world.folder / "both.pem"
        both.write_text(certificate.read_text() + certificate.with_suffix(".key").read_text())
        both.chmod(0o600)
        world.connect(client_certificate=both)

    def test_it_can_replace_the_password(self, world: World) -> None:
        world.server.allow(f"hostssl all {USER} 127.0.0.1/32 cert")
        certificate = world.authority.issue("client", USER)
        world.connect(client_certificate=certificate, client_key=certificate.with_suffix(".key"), password=None)

    def test_without_one_the_error_names_the_keys(self, world: World) -> None:
        assert "set [outbox] client_certificate and client_key" in world.refused()

    def test_one_for_another_user_is_refused(self, world: World) -> None:
        certificate = world.authority.issue("somebody", "somebody")
        said = world.refused(client_certificate=certificate, client_key=certificate.with_suffix(".key"))
        assert "check the user of [outbox] url, its password or client certificate" in said

    def test_one_of_another_authority_is_refused(self, world: World) -> None:
        certificate = Authority(world.folder, "strangers").issue("stranger", USER)
        said = world.refused(client_certificate=certificate, client_key=certificate.with_suffix(".key"))
        assert "unknown ca; the server does not trust [outbox] client_certificate" in said

    def test_a_key_that_others_can_read_is_refused(self, world: World) -> None:
        certificate = world.authority.issue("client", USER)
        key = certificate.with_suffix(".key")
        key.chmod(0o644)
        said = world.refused(client_certificate=certificate, client_key=key)
        assert "with mode 0600" in said and str(key) in said


def test_a_server_without_tls_is_refused_if_there_is_a_ca_file(world: World) -> None:
    world.server.cluster.execute("ALTER SYSTEM SET ssl = off")
    world.server.reload()
    try:
        assert "turn on ssl in postgresql.conf" in world.refused()
    finally:
        world.server.cluster.execute("ALTER SYSTEM RESET ssl")
        world.server.reload()


@pytest.mark.parametrize("greeting", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"220 mail.example.com ESMTP\r\n"])
def test_the_port_of_another_program_is_named_as_such(world: World, greeting: bytes) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        port = listening.getsockname()[1]
        Thread(target=_greet, args=(listening, greeting), daemon=True).start()
        said = world.refused(url=f"postgresql://{USER}@127.0.0.1:{port}/postgres")
    assert "is this the port of PostgreSQL?" in said


def _greet(listening: socket.socket, greeting: bytes) -> None:
    while True:
        try:
            connection, _ = listening.accept()
        except OSError:
            return
        with closing(connection):
            connection.recv(1_000)
            connection.sendall(greeting)
            while connection.recv(1_000):
                pass
