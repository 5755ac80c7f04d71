"""Another process holds the lock of the outbox: the daemon answers `/healthz`, and SIGTERM ends it."""

from __future__ import annotations

import re
import signal
import sqlite3
import subprocess
from contextlib import closing
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.integration.doors import Doors
from tests.integration.support import REPO, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from agent.sandbox.hivel import LocalHivel
    from agent.sandbox.jenkins import LocalJenkins
    from agent.sandbox.server import LocalServer

# Longer than a stop may take, and than SQLite is waited for.
PATIENCE_S = 120


@pytest.mark.parametrize("begin", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
def test_while_others_hold_the_lock_health_is_answered_and_a_stop_ends_the_process(
    begin: str, jenkins: LocalJenkins, jenkins_server: LocalServer, hivel: LocalHivel, hivel_server: LocalServer,
    tmp_path: Path,
) -> None:  # fmt: skip
    """The lock is held until the process has ended, so that nothing of this depends on speed."""
    jenkins.add_job("deploy/shop")
    doors = Doors.opened(tmp_path, jenkins=jenkins_server, hivel=hivel_server)
    daemon = doors.begin()
    try:
        with closing(sqlite3.connect(doors.outbox, isolation_level=None, timeout=PATIENCE_S)) as connection:
            connection.execute(begin)
            jenkins.finish_build("deploy/shop", jenkins.start_build("deploy/shop", repo=REPO))
            health = re.findall(r"what=monitoring url=(\S+)", doors.log())[-1] + "/healthz"
            wait_until(lambda: "level=error" in doors.log(), "work has met the lock", seconds=PATIENCE_S)
            assert httpx.get(health, timeout=PATIENCE_S).status_code == 200
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(PATIENCE_S) == 0
            connection.execute("ROLLBACK")
    except subprocess.TimeoutExpired:
        pytest.fail("SIGTERM did not end the process while another one held the lock")
    finally:
        daemon.kill()
        daemon.wait()
    with_next = doors.run("once")
    assert with_next.returncode == 0, with_next.stderr
    assert [each.event.deployment_id for each in hivel.deployments()] == ["main:deploy/shop#1"]
    assert "Traceback" not in doors.log()
