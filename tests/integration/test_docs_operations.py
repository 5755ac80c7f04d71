"""The backup and the restore of docs/operations.md: what a restored outbox does again."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agent.sandbox.hivel import Fault
from tests.integration.support import REPO, Agent

if TYPE_CHECKING:
    from agent.sandbox.hivel import LocalHivel
    from agent.sandbox.jenkins import LocalJenkins
    from agent.sandbox.server import LocalServer

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("## Back up and restore the outbox")[2].partition("\n## ")[0]
JOB = "deploy/shop"


def type_commands(folder: Path, verb: str) -> None:
    """Run the commands of the section that begin with this verb, on this folder and as the present user."""
    lines = [line for line in SECTION.splitlines() if line.startswith(f"sudo {verb} ")]
    assert lines, f"the page shows no {verb}"
    for line in lines:
        words = line.replace("/var/lib/hivel-agent", str(folder)).replace("/var/backups", str(folder / "backups"))
        words = words.replace("-o hivel-agent -g hivel-agent ", "").removeprefix("sudo ")
        subprocess.run(shlex.split(words), check=True, timeout=120)


def once(agent: Agent) -> None:
    done = agent.run("once")
    assert "delivered" in done.stdout, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="the page uses the command sqlite3")
def test_a_restored_outbox_reads_later_builds_again_and_sends_what_was_pending_under_the_same_ids(
    jenkins: LocalJenkins, jenkins_server: LocalServer, hivel: LocalHivel, hivel_server: LocalServer, tmp_path: Path
) -> None:
    (tmp_path / "backups").mkdir()
    agent = Agent.configured(tmp_path, jenkins=jenkins_server, hivel=hivel_server)
    jenkins.add_job(JOB)
    jenkins.add_builds(JOB, 2, repo=REPO)
    once(agent)
    hivel.fault(Fault(kind="status", status=503))
    jenkins.add_builds(JOB, 1, repo=REPO)
    once(agent)  # build 3 is pending at the time of the backup
    type_commands(tmp_path, "sqlite3")
    hivel.clear_faults()
    jenkins.add_builds(JOB, 1, repo=REPO)
    for _ in range(3):
        once(agent)
    before = sorted(each.event.deployment_id for each in hivel.deployments())
    assert before == [f"main:{JOB}#{number}" for number in (1, 2, 3, 4)]
    asked = len(hivel.requests())

    type_commands(tmp_path, "install")
    type_commands(tmp_path, "rm")
    for _ in range(3):
        once(agent)

    assert agent.outbox.stat().st_mode & 0o777 == 0o600
    assert sorted(each.event.deployment_id for each in hivel.deployments()) == before
    again = Counter(each.deployment_id for each in hivel.requests()[asked:])
    assert again == Counter({f"main:{JOB}#3": 1, f"main:{JOB}#4": 1})
