"""PgBouncer in transaction mode in front of a cluster."""

from __future__ import annotations

import shutil
import subprocess
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from tests.postgresql.cluster import LIMIT_S, USER, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.postgresql.cluster import Cluster

# Few connections to the server, so that the clients' transactions often run on another one than before.
_SETTINGS = """[databases]
* = host={folder} port={server} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 4
reserve_pool_size = 0
max_client_conn = 200
server_reset_query =
logfile = {folder}/pgbouncer.log
pidfile = {folder}/pgbouncer.pid
ignore_startup_parameters = extra_float_digits
"""


def missing_bouncer() -> str | None:
    """Why there can be none; None if there can."""
    return None if _program() else "needs PgBouncer: apt-get install pgbouncer"


def _program() -> str | None:
    return shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/bin")


@contextmanager
def bouncing(cluster: Cluster) -> Iterator[str]:
    """The begin of the URLs of databases behind it, for a block. It refuses root, as PostgreSQL does."""
    port, program = free_port(), _program()
    assert program is not None
    settings = cluster.folder / f"pgbouncer-{port}.ini"
    settings.write_text(_SETTINGS.format(folder=cluster.folder, server=cluster.port, user=USER, port=port))
    settings.chmod(0o644)
    with closing((cluster.folder / "pgbouncer.out").open("ab")) as out:
        process = subprocess.Popen(
            [*cluster.prefix("TERM"), program, str(settings)], stdout=out, stderr=out, stdin=subprocess.DEVNULL
        )
    try:
        ends = time.monotonic() + LIMIT_S
        while not cluster.is_ready("127.0.0.1", port):
            assert process.poll() is None, (cluster.folder / "pgbouncer.out").read_text()
            assert time.monotonic() < ends
            time.sleep(0.02)
        yield f"postgresql://{USER}@127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(LIMIT_S)
