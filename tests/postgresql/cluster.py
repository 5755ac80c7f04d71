"""A PostgreSQL cluster of its own in a temporary folder, with a database for each test.

initdb refuses root, so as root everything runs as the user postgres.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from agent.outbox.postgresql.server import Server

USER = "agent"
PASSWORD = "secret of the test's database"
LIMIT_S = 120
TEMPLATE = "outbox_template"
# Without triggers and foreign keys. The tables are small, so DELETE is faster than TRUNCATE.
_EMPTY = """DO $$
DECLARE name text;
BEGIN
    SET LOCAL session_replication_role = replica;
    FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public'
        AND tablename NOT IN ('schema_version', 'rate', 'probe') LOOP
        EXECUTE 'DELETE FROM ' || quote_ident(name);
    END LOOP;
    UPDATE rate SET free_at = 0;
    UPDATE probe SET until = 0;
    FOR name IN SELECT sequencename FROM pg_sequences WHERE schemaname = 'public' LOOP
        PERFORM setval(quote_ident(name), 1, false);
    END LOOP;
END $$"""
_FOLDERS = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)


def missing() -> str | None:
    """Why there can be no cluster; None if there can."""
    try:
        import psycopg  # noqa: F401
    except ImportError:
        return "needs psycopg: the extra [postgresql]"
    if not any((folder / "initdb").exists() for folder in _FOLDERS):
        return "needs PostgreSQL: apt-get install postgresql"
    if os.geteuid() == 0 and not user_of_servers():
        return "needs the user postgres, because initdb refuses root"
    return None


def programs() -> Path:
    """The folder of the newest installed version."""
    return _FOLDERS[0]


def user_of_servers() -> pwd.struct_passwd | None:
    """As whom root runs servers; None if there is no such user."""
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return None


def as_user_of_servers() -> list[str]:
    """What begins a command that runs as the user of servers; empty if that is this user."""
    user = user_of_servers()
    if os.geteuid() != 0 or user is None:
        return []
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]


class Cluster:
    """A running server on 127.0.0.1 and on a Unix socket. A user with a password, for whom the socket needs none."""

    def __init__(
        self, *, fsync: bool = False, settings: Mapping[str, object] | None = None, primary: Cluster | None = None
    ) -> None:
        """``primary``: this one is a standby, which follows that one."""
        self.bin = programs()
        self.folder = Path(tempfile.mkdtemp(prefix="pg-"))
        self.data = self.folder / "data"
        self.port = free_port()
        self._numbers = count(1)
        user = user_of_servers()
        if os.geteuid() == 0 and user is not None:
            os.chown(self.folder, user.pw_uid, user.pw_gid)
        self.folder.chmod(0o755)
        if primary is None:
            self._initialise()
        else:
            self._copy(primary)
        all_settings: dict[str, object] = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": self.folder,
            "fsync": "on" if fsync else "off",
            "shared_buffers": "32MB",
            "autovacuum_naptime": "5s",
            "max_connections": 60,
            **(settings or {}),
        }
        lines = [f"{name} = '{value}'" for name, value in all_settings.items()]
        with (self.data / "postgresql.conf").open("a") as file:
            file.write("\n".join(lines) + "\n")
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def _initialise(self) -> None:
        password = self.folder / "password"
        password.write_text(PASSWORD)
        self.run(
            "initdb", "--pgdata", str(self.data), "--username", USER, "--pwfile", str(password), "--no-sync",
            "--auth-local=trust", "--auth-host=scram-sha-256", "--encoding=UTF8", "--locale=C",
        )  # fmt: skip

    def _copy(self, primary: Cluster) -> None:
        self.run(
            "pg_basebackup", "--pgdata", str(self.data), "--host", str(primary.folder), "--port", str(primary.port),
            "--username", USER, "--write-recovery-conf", "--checkpoint=fast", "--no-sync",
        )  # fmt: skip

    # ---- the server

    def start(self) -> None:
        """Start it. It dies with this process."""
        log = (self.folder / "log").open("ab")
        with closing(log):
            self._process = subprocess.Popen(
                [*self.prefix("QUIT"), str(self.bin / "postgres"), "-D", str(self.data)],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=self.folder,
            )
        self.wait()

    def wait(self) -> None:
        """Until it accepts connections."""
        ends = time.monotonic() + LIMIT_S
        while True:
            if self.is_ready(str(self.folder), self.port):
                return
            assert self._process is not None and self._process.poll() is None, self.log()
            assert time.monotonic() < ends, self.log()
            time.sleep(0.02)

    def is_ready(self, host: str, port: int) -> bool:
        """Whether a server, or a pooler, accepts connections there."""
        return self.run("pg_isready", "-q", "-h", host, "-p", str(port), check=False).returncode == 0

    def stop(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """SIGQUIT: at once, as after a crash. SIGINT: connections are ended, and everything is written."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(LIMIT_S)
            self._process = None

    def restart(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """Stop and start it."""
        self.stop(how)
        self.start()

    def promote(self) -> None:
        """Let a standby accept writes."""
        self.run("pg_ctl", "promote", "--pgdata", str(self.data), "--wait")

    def has_all_of(self, primary: Cluster) -> bool:
        """Whether a standby has everything that the primary has now."""
        [[written]] = primary.execute("SELECT pg_current_wal_lsn()")
        [[has_it]] = self.execute(f"SELECT pg_last_wal_replay_lsn() >= '{written}'::pg_lsn")
        return bool(has_it)

    def close(self) -> None:
        """Stop it and delete all of it."""
        self.stop()
        shutil.rmtree(self.folder)

    def log(self) -> str:
        """The server's log."""
        return (self.folder / "log").read_text(errors="replace")[-4_000:]

    # ---- databases

    def url(self, database: str, *, tcp: bool = False) -> str:
        """The address of a database, without a password."""
        if tcp:
            return f"postgresql://{USER}@127.0.0.1:{self.port}/{database}"
        return f"postgresql://{USER}@/{database}?host={self.folder}&port={self.port}"

    def server(self, database: str) -> Server:
        """The same as the engine takes it."""
        from agent.outbox.postgresql.server import Server

        return Server(self.url(database))

    def new_database(self, template: str = "template0") -> str:
        """A new database; returns its name."""
        name = f"test{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def new_outbox(self) -> str:
        """A new database with the tables of an empty outbox, which is faster than creating them."""
        from agent.outbox.postgresql.connection import Connection
        from agent.outbox.postgresql.migrations import migrate

        if not self.execute(f"SELECT 1 FROM pg_database WHERE datname = '{TEMPLATE}'"):
            self.execute(f"CREATE DATABASE {TEMPLATE} TEMPLATE template0")
            with Connection(self.server(TEMPLATE)) as connection:
                migrate(connection)
        return self.new_database(TEMPLATE)

    def empty(self, database: str) -> None:
        """Make an outbox empty again, with the numbers from 1 on: ten times as fast as a new database."""
        self.execute(_EMPTY, database)

    def drop(self, database: str) -> None:
        """Delete a database, whoever is connected to it."""
        self.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")

    def execute(self, sql: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """One statement in a connection of its own."""
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True) as connection:
            found = connection.execute(sql)  # type: ignore[arg-type]
            return found.fetchall() if found.description else []

    # ---- processes

    def prefix(self, dies_by: str | None = None) -> list[str]:
        """What runs a command as the user of the server. It dies by this signal when this process ends."""
        begin = as_user_of_servers() or (["setpriv"] if dies_by else [])
        return [*begin, *([f"--pdeathsig={dies_by}"] if dies_by else []), "--"] if begin else []

    def run(self, name: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """One of PostgreSQL's programs, to its end."""
        command = [*self.prefix(), str(self.bin / name), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.folder, timeout=LIMIT_S, check=False)
        assert not check or done.returncode == 0, done.stderr
        return done


def free_port() -> int:
    """A port of 127.0.0.1 that is free now."""
    with closing(socket.socket()) as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@contextmanager
def running_cluster(*, fsync: bool = False, **settings: object) -> Iterator[Cluster]:
    """A cluster for a block."""
    cluster = Cluster(fsync=fsync, settings=settings)
    try:
        yield cluster
    finally:
        cluster.close()
