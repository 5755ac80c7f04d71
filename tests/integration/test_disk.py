"""A disk that is full, or cannot be written any more: nothing is lost, nothing doubled, and it goes on by itself."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agent.sandbox.hivel import Fault
from tests.integration.disks import Disk, mounted
from tests.integration.support import REPO, Agent, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from subprocess import Popen

    from agent.sandbox.hivel import LocalHivel
    from agent.sandbox.jenkins import LocalJenkins
    from agent.sandbox.server import LocalServer

pytestmark = pytest.mark.root

JOB = "deploy/shop"
MB = 1024 * 1024


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=8m", "tmpfs") as disk:
        yield disk


@pytest.fixture
def agent(
    jenkins: LocalJenkins, jenkins_server: LocalServer, hivel_server: LocalServer, tmp_path: Path, disk: Disk
) -> Agent:
    jenkins.add_job(JOB)
    return on_disk(tmp_path, disk, jenkins_server, hivel_server)


@pytest.fixture
def daemon(agent: Agent) -> Iterator[Popen[str]]:
    process = started(agent)
    yield process
    process.kill()
    process.wait()


def on_disk(folder: Path, disk: Disk, jenkins: LocalServer, hivel: LocalServer) -> Agent:
    """An agent whose configuration and log are elsewhere than its outbox."""
    agent = Agent.configured(folder, jenkins=jenkins, hivel=hivel, extra='[[deployment]]\njob = "deploy/**"\n')
    text = agent.config.read_text().replace('path = "outbox.db"', f'path = "{disk.folder}/outbox.db"')
    agent.config.write_text(text)
    return agent


def started(agent: Agent) -> Popen[str]:
    before = (agent.folder / "agent.log").exists() and agent.log().count("event=started")
    process = agent.start()
    wait_until(lambda: agent.log().count("event=started") > before, "the daemon has started")
    return process


def polls(jenkins: LocalJenkins) -> int:
    return sum(request.path == "/api/json" for request in jenkins.requests)


def wait_for_polls(jenkins: LocalJenkins, count: int) -> None:
    before = polls(jenkins)
    wait_until(lambda: polls(jenkins) >= before + count, f"{count} more polls")


def cursor(disk: Disk) -> int:
    with closing(sqlite3.connect(f"file:{disk.folder}/outbox.db?mode=ro", uri=True)) as connection:
        return int(connection.execute("SELECT next_build_number FROM jobs").fetchone()[0])


def times_posted(hivel: LocalHivel) -> list[int]:
    """How often Hivel accepted each event, by the build's number."""
    arrived = {int(d.event.deployment_id.rpartition("#")[2]): d.times_posted for d in hivel.deployments()}
    assert sorted(arrived) == list(range(1, len(arrived) + 1))
    return [arrived[number] for number in sorted(arrived)]


# ---- full


@pytest.mark.usefixtures("daemon")
def test_a_disk_that_is_full_for_a_while_loses_nothing_and_doubles_nothing(
    agent: Agent, disk: Disk, jenkins: LocalJenkins, hivel: LocalHivel
) -> None:
    """Delivery goes on meanwhile; what cannot be enqueued stays at Jenkins, and the log does not repeat itself."""
    hivel.fault(Fault(kind="status", status=503))
    jenkins.add_builds(JOB, 40, repo=REPO)
    wait_until(lambda: agent.json("status")["events"]["pending"] == 40, "40 events wait")
    disk.fill()
    jenkins.add_builds(JOB, 400, repo=REPO)
    wait_until(lambda: "there is no space left for the outbox" in agent.log(), "the log says it")
    assert cursor(disk) == 41
    hivel.clear_faults()
    wait_until(lambda: len(hivel.deployments()) == 40, "what was enqueued before is delivered all the same")
    posted = len(hivel.requests())
    wait_for_polls(jenkins, 10)
    assert len(hivel.requests()) == posted, "outcomes that could not be stored were sent again"
    assert agent.log().count('event="does not work"') == 1
    assert cursor(disk) == 41
    status = agent.json("status")
    assert status["events"]["pending"] + status["events"]["delivered"] == 40
    disk.make_room()
    room_since = time.monotonic()
    wait_until(lambda: len(hivel.deployments()) == 440, "everything has arrived")
    recovered_s = time.monotonic() - room_since
    wait_until(lambda: agent.json("status")["events"]["delivered"] == 440, "everything is settled")
    assert times_posted(hivel) == [1] * 440
    agent.wait_for_log('event="works again"')
    assert agent.log().count('event="works again"') == 1
    print(f"full disk: 440 builds, 0 lost, 0 doubled, {recovered_s:.1f} s after there was room")  # noqa: T201


@pytest.mark.usefixtures("daemon")
def test_the_disk_may_be_full_again_and_again(
    agent: Agent, disk: Disk, jenkins: LocalJenkins, hivel: LocalHivel
) -> None:
    for round_ in range(1, 6):
        disk.fill()
        jenkins.add_builds(JOB, 150, repo=REPO)
        wait_for_polls(jenkins, 3)
        disk.make_room()
        wait_until(lambda round_=round_: len(hivel.deployments()) == 150 * round_, "everything has arrived")
    wait_until(lambda: agent.json("status")["events"]["delivered"] == 750, "everything is settled")
    assert times_posted(hivel) == [1] * 750


@pytest.mark.usefixtures("daemon")
def test_an_event_that_fails_while_the_disk_is_full_is_tried_again_all_the_same(
    agent: Agent, disk: Disk, jenkins: LocalJenkins, hivel: LocalHivel
) -> None:
    hivel.fault(Fault(kind="status", status=503))
    jenkins.add_builds(JOB, 3, repo=REPO)
    wait_until(lambda: agent.json("status")["events"]["pending"] == 3, "3 events wait")
    disk.fill()
    before = len(hivel.requests())
    wait_until(lambda: len(hivel.requests()) >= before + 6, "each was tried, and none of it could be stored")
    hivel.clear_faults()
    wait_until(lambda: len(hivel.deployments()) == 3, "they are delivered while the disk is full")


def test_verbs_say_what_is_wrong_with_a_full_disk(
    agent: Agent, daemon: Popen[str], disk: Disk, jenkins: LocalJenkins, hivel: LocalHivel
) -> None:
    jenkins.add_builds(JOB, 5, repo=REPO)
    wait_until(lambda: agent.json("status")["events"]["delivered"] == 5, "5 events are delivered")
    daemon.terminate()
    assert daemon.wait(120) == 0
    jenkins.add_builds(JOB, 200, repo=REPO)
    disk.fill()
    for verb in (["status"], ["queue", "list"]):
        done = agent.run(*verb)
        assert said_in_one_line(done) or done.returncode == 0, done.stderr
    checked = agent.run("check")
    assert (checked.returncode, checked.stderr) == (1, "")
    [line] = [line for line in checked.stdout.splitlines() if "outbox:" in line]
    assert line.startswith("error") and tells_of_a_full_disk(line)
    for verb in (["once"], ["backfill", "--since", "30d"]):
        done = agent.run(*verb)
        assert done.returncode == 1 and said_in_one_line(done), done.stderr
        assert tells_of_a_full_disk(done.stderr)
    disk.make_room()
    assert agent.run("once").returncode == 0
    assert times_posted(hivel) == [1] * 205


def said_in_one_line(done: subprocess.CompletedProcess[str]) -> bool:
    return done.stderr.startswith("hivel-agent: ") and done.stderr.count("\n") == 1


def tells_of_a_full_disk(text: str) -> bool:
    """Where SQLite cannot make the files beside the outbox, it does not know why."""
    return any(each in text for each in ("no space left", "is its disk full", "whether its disk is full"))


def test_a_daemon_that_starts_on_a_full_disk_delivers_or_says_why_not(
    agent: Agent, disk: Disk, jenkins: LocalJenkins, hivel: LocalHivel, hivel_server: LocalServer
) -> None:
    hivel_server.stop()
    jenkins.add_builds(JOB, 5, repo=REPO)
    assert agent.run("once").returncode == 0
    jenkins.add_builds(JOB, 200, repo=REPO)
    hivel_server.start()
    disk.fill()
    process = agent.start()
    wait_until(lambda: process.poll() is not None or len(hivel.deployments()) == 5, "it works or has ended")
    if process.returncode is not None:
        assert process.returncode == 1, agent.log()  # 2 would keep systemd from trying again
    assert "Traceback" not in agent.log()
    disk.make_room()
    if process.poll() is not None:
        process = started(agent)
    wait_until(lambda: len(hivel.deployments()) == 205, "everything has arrived")
    process.terminate()
    assert process.wait(120) == 0


# ---- read-only


def test_verbs_say_what_is_wrong_with_a_read_only_disk(
    agent: Agent, daemon: Popen[str], disk: Disk, jenkins: LocalJenkins, hivel: LocalHivel
) -> None:
    jenkins.add_builds(JOB, 5, repo=REPO)
    wait_until(lambda: agent.json("status")["events"]["delivered"] == 5, "5 events are delivered")
    daemon.terminate()
    assert daemon.wait(120) == 0
    jenkins.add_builds(JOB, 5, repo=REPO)
    disk.remount("ro")
    for verb in (["status"], ["queue", "list"]):
        done = agent.run(*verb)
        assert said_in_one_line(done) or done.returncode == 0, done.stderr
    checked = agent.run("check")
    assert (checked.returncode, checked.stderr) == (1, "")
    [line] = [line for line in checked.stdout.splitlines() if "outbox:" in line]
    assert line.startswith("error") and "cannot be written" in line
    for verb in (["once"], ["run"], ["backfill", "--since", "30d"]):
        done = agent.run(*verb)
        assert done.returncode == 1 and said_in_one_line(done), done.stderr
        assert "Read-only file system" in done.stderr or "cannot be written" in done.stderr
    disk.remount("rw")
    assert agent.run("once").returncode == 0
    assert times_posted(hivel) == [1] * 10


def test_a_file_system_that_turns_read_only_under_the_daemon_loses_nothing(
    jenkins: LocalJenkins, hivel: LocalHivel, jenkins_server: LocalServer, hivel_server: LocalServer, tmp_path: Path
) -> None:
    """As ext4 does when it meets an error. It stays so until it is mounted again, so the daemon is stopped for that."""
    jenkins.add_job(JOB)
    image = tmp_path / "ext4.img"
    with image.open("wb") as file:
        file.truncate(16 * MB)
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("needs mkfs.ext4")
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    with mounted(tmp_path / "ext4", "-o", "loop,errors=remount-ro", str(image)) as disk:
        agent = on_disk(tmp_path, disk, jenkins_server, hivel_server)
        process = started(agent)
        hivel.fault(Fault(kind="status", status=503))
        jenkins.add_builds(JOB, 30, repo=REPO)
        wait_until(lambda: agent.json("status")["events"]["pending"] == 30, "30 events wait")
        turn_read_only(disk)
        jenkins.add_builds(JOB, 30, repo=REPO)
        wait_until(lambda: "does not work" in agent.log(), "the log says it")
        hivel.clear_faults()
        wait_until(lambda: len(hivel.deployments()) == 30, "what was enqueued before is delivered all the same")
        wait_for_polls(jenkins, 10)
        assert {d.times_posted for d in hivel.deployments()} == {1}
        assert agent.log().count('event="does not work"') <= 2, agent.log()
        process.terminate()
        assert process.wait(120) == 0
        assert "Traceback" not in agent.log()
    subprocess.run(["fsck.ext4", "-p", "-f", str(image)], check=False, capture_output=True)
    with mounted(tmp_path / "ext4", "-o", "loop", str(image)):
        since = time.monotonic()
        process = started(agent)
        wait_until(lambda: len(hivel.deployments()) == 60, "everything has arrived")
        recovered_s = time.monotonic() - since
        process.terminate()
        assert process.wait(120) == 0
    again = sum(times - 1 for times in times_posted(hivel))
    assert len(hivel.deployments()) == 60
    print(f"read-only: 60 builds, 0 lost, {again} sent again under the same id, {recovered_s:.1f} s")  # noqa: T201


def turn_read_only(disk: Disk) -> None:
    """What the kernel does after an error in the file system."""
    source = subprocess.run(
        ["findmnt", "-n", "-o", "SOURCE", str(disk.folder)], capture_output=True, text=True, check=True
    ).stdout.strip()
    trigger = Path("/sys/fs/ext4", Path(source).name, "trigger_fs_error")
    if not trigger.exists():
        pytest.skip("this kernel cannot make an ext4 file system fail")
    trigger.write_text("1")
