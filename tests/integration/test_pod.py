"""The agent with the limits of a pod: process 1, another user without privileges, and a read-only file system.

The limits are those of `packaging/kubernetes/deployment.yaml`, made with namespaces. No cluster and no image is used.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.integration.support import REPO, Agent, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.sandbox.hivel import LocalHivel
    from agent.sandbox.jenkins import LocalJenkins
    from agent.sandbox.server import LocalServer

pytestmark = pytest.mark.root

CHECKOUT = Path(__file__).parents[2]
USER = 10001
# Runs as root in namespaces of its own: the pod's folders at /mnt, the program at /srv, and all but two folders
# read-only. Whatever can still be written as root is reported; then the agent runs as the user of the pod.
_POD = r"""
set -e
mount --bind "$CHECKOUT" /srv
mount --bind "$POD" /mnt
mount --bind /mnt/state /mnt/state
mount --bind /mnt/tmp /tmp
cut -d' ' -f5 /proc/self/mountinfo | while read -r place; do
  case $place in /mnt/state|/tmp|/proc*|/dev*|/sys*) ;; *) mount -o remount,bind,ro "$place" 2>/dev/null || : ;; esac
done
for folder in / /srv /mnt /mnt/secrets /etc /run /usr /var/lib /var/tmp /home /root; do
  if (: >"$folder/written") 2>/dev/null; then echo "writable: $folder"; fi
done
cd /srv
exec setpriv --reuid="$USER_ID" --regid="$USER_ID" --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all \
  "/srv/$PYTHON" -B -m agent run --config /mnt/config.toml --log-format json
"""


class Pod:
    """A pod's folders, and the agent in them."""

    def __init__(self, agent: Agent) -> None:
        self.folder = agent.folder
        self.process: subprocess.Popen[bytes] | None = None
        for name in ("secrets", "state", "tmp"):
            (self.folder / name).mkdir()
        for name in ("hivel", "jenkins"):
            (self.folder / f"{name}.token").rename(self.folder / f"secrets/{name}-token")
            (self.folder / f"secrets/{name}-token").chmod(0o444)
        for name in ("state", "tmp"):
            os.chown(self.folder / name, USER, USER)
        without = [line for line in agent.config.read_text().splitlines() if not line.startswith("token_file")]
        agent.config.write_text(
            "\n".join(without).replace('"outbox.db"', '"state/outbox.db"') + '\n[hook]\nspool = ""\n'
        )
        self.folder.chmod(0o755)

    def start(self) -> None:
        environment = {
            "PATH": os.environ["PATH"],
            "CHECKOUT": str(CHECKOUT),
            "POD": str(self.folder),
            "PYTHON": str(Path(sys.executable).relative_to(CHECKOUT)),
            "USER_ID": str(USER),
            "CREDENTIALS_DIRECTORY": "/mnt/secrets",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        own = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"]
        with (self.folder / "agent.log").open("wb") as log:
            self.process = subprocess.Popen([*own, "sh", "-c", _POD], env=environment, stdout=log, stderr=log)
        wait_until(lambda: '"started"' in self.log() or self.process.poll() is not None, "the agent has started")

    @property
    def agent_pid(self) -> int:
        """Of the agent, which is process 1 for itself."""
        assert self.process is not None
        return int(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text())

    def log(self) -> str:
        return (self.folder / "agent.log").read_text()

    def get(self, path: str) -> httpx.Response:
        lines = [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]
        [url] = [line["url"] for line in lines if (line["event"], line.get("what")) == ("listening", "monitoring")]
        return httpx.get(url + path, timeout=120)


@pytest.fixture
def pod(jenkins: LocalJenkins, jenkins_server: LocalServer, hivel_server: LocalServer, tmp_path: Path) -> Iterator[Pod]:
    able = subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], capture_output=True, check=False)
    if able.returncode != 0:
        pytest.skip(f"needs namespaces: {able.stderr.decode().strip()}")
    if not Path(sys.executable).is_relative_to(CHECKOUT):
        pytest.skip("needs the virtual environment in the checkout, as make creates it")
    jenkins.add_job("deploy/shop")
    pod = Pod(Agent.configured(tmp_path, jenkins=jenkins_server, hivel=hivel_server))
    pod.start()
    yield pod
    assert pod.process is not None
    pod.process.kill()
    pod.process.wait()


def test_an_agent_with_the_limits_of_a_pod_delivers_and_stops(
    pod: Pod, jenkins: LocalJenkins, hivel: LocalHivel
) -> None:
    assert pod.process is not None and pod.process.poll() is None, pod.log()
    assert "writable:" not in pod.log()
    status = Path(f"/proc/{pod.agent_pid}/status").read_text()
    assert f"Uid:\t{USER}\t{USER}\t{USER}\t{USER}" in status
    assert "CapEff:\t0000000000000000" in status

    assert pod.get("/healthz").status_code == 200
    wait_until(lambda: pod.get("/readyz").status_code == 200, "the agent is ready")
    jenkins.add_builds("deploy/shop", 1, repo=REPO)
    wait_until(lambda: len(hivel.deployments()) == 1, "the deployment is delivered")

    os.kill(pod.agent_pid, signal.SIGTERM)
    assert pod.process.wait(timeout=120) == 0
    assert '"stopped"' in pod.log()
    assert {each.name.split("-")[0] for each in (pod.folder / "state").iterdir()} <= {"outbox.db", "outbox.db.lock"}
    assert list((pod.folder / "tmp").iterdir()) == []


def test_the_container_is_not_restarted_because_jenkins_and_hivel_are_down(
    pod: Pod, jenkins_server: LocalServer, hivel_server: LocalServer
) -> None:
    """The liveness probe does not depend on them; only the readiness probe does."""
    jenkins_server.stop()
    hivel_server.stop()
    wait_until(lambda: "unreachable" in pod.get("/readyz").text or "unreachable" in pod.log(), "it is noticed")
    assert pod.get("/healthz").status_code == 200
