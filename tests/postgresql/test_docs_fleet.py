"""docs/fleet.md, walked as it is written: two agents on one machine, TLS, fewer rights, backup and restore.

Only what differs between machines is changed: hosts, ports, folders, and who runs the programs of PostgreSQL.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from agent.sandbox.hivel import Fault
from tests.integration.support import REPO, Agent, wait_until
from tests.postgresql.certificates import install
from tests.postgresql.cluster import Cluster, as_user_of_servers, free_port, missing, running_cluster
from tests.postgresql.cluster import programs as installed
from tests.postgresql.fleet import Fleet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.sandbox.hivel import LocalHivel
    from agent.sandbox.jenkins import LocalJenkins
    from agent.sandbox.server import LocalServer

PAGE = (Path(__file__).parents[2] / "docs" / "fleet.md").read_text(encoding="utf-8")
HOST = "postgresql.example.com"
PASSWORD = "choose-a-long-one"
ETC = "/etc/postgresql/15/main"
JOB = "deploy/shop"
NOWHERE = "http://127.0.0.1:1"
TOKENS = dict(re.findall(r"(\w+_API_TOKEN)=([\w-]+)", PAGE))


def blocks(title: str, *, indented: bool = False) -> list[str]:
    """The blocks of the section or subsection with this title, in their order. ``indented``: also those of lists."""
    level, section = re.search(rf"(?ms)^(##+) {re.escape(title)}\n(.*)", PAGE).groups()  # type: ignore[union-attr]
    end = re.search(rf"(?m)^#{{2,{len(level)}}} ", section)
    blanks = " *" if indented else ""
    return re.findall(rf"(?ms)^{blanks}```\w+\n(.*?)^{blanks}```$", section[: end.start()] if end else section)


def only(title: str, beginning: str) -> str:
    """The one block of a section that begins with these words."""
    [found] = [each for each in blocks(title) if each.startswith(beginning)]
    return found


# ---- two agents on one machine


@pytest.fixture
def folder() -> Iterator[Path]:
    """The server may be another user, who writes here."""
    found = Path(tempfile.mkdtemp(prefix="fleet-"))
    found.chmod(0o777)
    yield found
    shutil.rmtree(found)


class Shell:
    """A shell in which a person types."""

    def __init__(self, folder: Path) -> None:
        environment = {**Agent(folder).environment(), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        self._out = folder / "shell.out"
        with self._out.open("wb") as out:
            self._process = subprocess.Popen(
                ["bash"], stdin=subprocess.PIPE, stdout=out, stderr=out, cwd=folder, env=environment, text=True,
                start_new_session=True,
            )  # fmt: skip

    def type(self, text: str) -> None:
        """Returns when all commands of it have ended, except those in the background."""
        assert self._process.stdin is not None
        mark = f"typed-{text.__hash__()}"
        self._process.stdin.write(f"{text}\necho {mark} $?\n")
        self._process.stdin.flush()
        wait_until(lambda: mark in self.printed() or self._process.poll() is not None, f"typed: {text}")
        assert f"{mark} 0" in self.printed(), self.printed()

    def printed(self) -> str:
        return self._out.read_text(errors="replace")

    def close(self) -> None:
        """End all that was started, also after a failure."""
        with self._process:
            os.killpg(self._process.pid, signal.SIGKILL)


def programs(folder: Path) -> Path:
    """A folder with the programs of PostgreSQL: run by root, they become the user of the server."""
    found = folder / "programs"
    found.mkdir()
    for name in ("initdb", "pg_ctl", "createdb"):
        file = found / name
        file.write_text(f'#!/bin/sh\nexec {shlex.join([*as_user_of_servers(), str(installed() / name)])} "$@"\n')
        file.chmod(0o755)
    return found


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_two_agents_on_one_machine(folder: Path) -> None:
    changes = {port: str(free_port()) for port in ("5433", "8090", "8091")}
    changes["/usr/lib/postgresql/15/bin"] = str(programs(folder))
    changes["mkdir fleet"] = "mkdir -m 0777 fleet"

    def here(text: str) -> str:
        for word, instead in changes.items():
            assert word in PAGE
            text = text.replace(word, instead)
        return text

    title = "Try it on one machine"
    begin, configuration, start, _shown, end = map(here, blocks(title))
    shell = Shell(folder)
    try:
        shell.type(begin)
        fleet = folder / "fleet"
        (fleet / "one" / "config.toml").write_text(configuration)
        wait_until(lambda: shell.printed().count("sandbox-token: http") == 2, "the local Jenkins and Hivel listen")
        shell.type(start)
        assert "can be written; 0 pending" in shell.printed()
        hivel = f"http://127.0.0.1:{changes['8090']}/api/deployments"
        wait_until(lambda: len(httpx.get(hivel, trust_env=False).json()) > 0, "the first events are delivered")
        one = Agent(fleet / "one")
        wait_until(lambda: shares(one) == {1}, "each agent polls one controller")
        shown = re.compile(r"agent     \S+ \S+ \(\w{8}, process \d+\): active, polls 1: (main|mobile) \(epoch \d\)")
        assert len(shown.findall(one.run("status", **TOKENS).stdout)) == 2
        [handover] = [each for each in re.findall(r"`(hivel-agent handover [^`]+)`", PAGE) if "one/config" in each]
        shell.type(handover)
        wait_until(lambda: shares(one) == {0, 2}, "the other one polls both")
        log = (fleet / "one" / "log").read_text()
        pages = log.partition("what=web url=")[2].split()[0]
        headers = {"Sec-Fetch-Site": "same-origin"}
        password = (fleet / "two" / "web.password").read_text().strip()
        with httpx.Client(base_url=pages, trust_env=False, timeout=120, headers=headers) as client:
            assert client.post("/login", data={"password": password}).status_code == 303
            assert client.get("/agents").text.count(", process ") == 2
        shell.type(end)
        assert not fleet.exists()
        assert "Traceback" not in log and "cannot listen" not in log
    finally:
        shell.close()


def shares(agent: Agent) -> set[int]:
    """How many controllers the agents poll."""
    status = json.loads(agent.run("status", "--json", **TOKENS).stdout)
    return {each["controllers"] for each in status["fleet"]["agents"]}


# ---- TLS


class Machine:
    """The server and the agents' folder of docs/fleet.md, on this machine."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.folder = folder  # of the agent; openssl runs here
        self.etc = Path(tempfile.mkdtemp(prefix="etc-"))
        self.etc.chmod(0o755)

    def close(self) -> None:
        shutil.rmtree(self.etc)

    def run_openssl(self, title: str) -> None:
        text = only(title, "openssl").replace("\\\n", " ").replace(HOST, "localhost")
        for line in text.splitlines():
            subprocess.run(shlex.split(line), cwd=self.folder, check=True, capture_output=True, timeout=120)

    def install(self, title: str) -> None:
        """The files that the section installs, on the server and for the agent."""
        lines = [line for each in blocks(title) for line in each.splitlines() if line.startswith("sudo install ")]
        assert lines
        for line in lines:
            *_, source, target = shlex.split(line)
            if target.startswith(ETC):
                install(self.folder / source, self.etc / Path(target).name)
            else:
                assert (self.folder / source).exists() or source == "/dev/null"
                assert Path(target).name == source or source == "/dev/null", "the agent finds it beside config.toml"

    def configure_server(self, title: str, beginning: str) -> None:
        with (self.cluster.data / "postgresql.conf").open("a") as file:
            file.write(only(title, beginning).replace(ETC, str(self.etc)))

    def allow(self, title: str) -> None:
        lines = only(title, "hostssl").replace("192.0.2.11/32", "127.0.0.1/32")
        (self.cluster.data / "pg_hba.conf").write_text(f"local all all trust\n{lines}")

    def agent(
        self,
        extra: str = "",
        *,
        password: str = PASSWORD,
        jenkins: LocalServer | str = NOWHERE,
        hivel: LocalServer | str = NOWHERE,
    ) -> Agent:
        """An agent with the configuration of the page. ``extra``: more lines of [outbox]."""
        agent = Agent.configured(self.folder, jenkins=jenkins, hivel=hivel)
        table = only("3. The agents", "[outbox]").replace(HOST, f"localhost:{self.cluster.port}")
        agent.config.write_text(agent.config.read_text().replace("[outbox]\n", table + extra))
        file = self.folder / "outbox.password"
        file.unlink(missing_ok=True)
        file.write_text(f"{password}\n")
        file.chmod(0o400)
        return agent


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    if (why := missing()) is not None:
        pytest.skip(why)
    with running_cluster() as cluster:
        found = Machine(cluster, tmp_path)
        for statement in only("1. The database", "CREATE ROLE").strip().split("\n"):
            cluster.execute(statement)
        found.run_openssl("2. TLS")
        found.install("2. TLS")
        found.configure_server("2. TLS", "listen_addresses")
        found.allow("2. TLS")
        cluster.restart(signal.SIGINT)
        yield found
        found.close()


def outbox_of(agent: Agent, **environment: str) -> str:
    """What `check` says about the outbox."""
    done = agent.run("check", "--offline", **environment)
    assert "Traceback" not in done.stderr and PASSWORD not in done.stdout + done.stderr
    [line] = [line for line in done.stdout.splitlines() if " outbox: " in line]
    return line


def test_the_steps_for_tls_and_what_a_wrong_file_says(machine: Machine) -> None:
    machine.install("3. The agents")
    agent = machine.agent()
    assert outbox_of(agent).startswith("ok ")
    encrypted = "SELECT count(*) FROM pg_tables WHERE tableowner = 'hivel_agent'"
    [[tables]] = machine.cluster.execute(encrypted, "hivel_agent")
    assert isinstance(tables, int) and tables > 10, "the first command has created the tables"

    machine.agent(password="of-somebody-else")
    assert "check the user of [outbox] url, its password" in outbox_of(agent)

    machine.agent()
    right = (machine.folder / "postgresql-ca.pem").read_text()
    (machine.folder / "postgresql-ca.pem").write_text((machine.folder / "server.pem").read_text())
    machine.run_openssl("2. TLS")  # another authority, of the same name
    assert "certificate verify failed; [outbox] ca_file must contain the authority" in outbox_of(agent)
    (machine.folder / "postgresql-ca.pem").write_text(right)
    assert outbox_of(agent).startswith("ok ")


def test_the_password_can_be_a_credential_of_systemd(machine: Machine, tmp_path: Path) -> None:
    [name] = set(re.findall(r"LoadCredential=([\w-]+):", PAGE))
    agent = machine.agent()
    agent.config.write_text(agent.config.read_text().replace('password_file = "outbox.password"\n', ""))
    assert "set [outbox] password_file" in outbox_of(agent)
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / name).write_text(f"{PASSWORD}\n")
    assert outbox_of(agent, CREDENTIALS_DIRECTORY=str(credentials)).startswith("ok ")


def test_the_steps_for_client_certificates(machine: Machine) -> None:
    title = "Client certificates"
    machine.run_openssl(title)
    machine.install(title)
    install(machine.folder / "postgresql-ca.pem", machine.etc / "postgresql-ca.pem")
    machine.configure_server(title, "ssl_ca_file")
    machine.allow(title)
    machine.cluster.restart(signal.SIGINT)
    without = machine.agent()
    assert "set [outbox] client_certificate and client_key" in outbox_of(without)
    agent = machine.agent(only(title, "client_certificate"))
    assert outbox_of(agent).startswith("ok ")


def test_the_steps_from_a_file_to_postgresql_and_back(
    machine: Machine,
    jenkins: LocalJenkins,
    jenkins_server: LocalServer,
    hivel: LocalHivel,
    hivel_server: LocalServer,
) -> None:
    there, back = (
        shlex.split(each.replace("\\\n", " ").replace("sudo hivel-agent ", ""))
        for each in blocks("From SQLite to PostgreSQL", indented=True)
    )

    def type_command(words: list[str]) -> None:
        here = {HOST: f"localhost:{machine.cluster.port}", "/var/lib/hivel-agent/outbox.db": str(agent.outbox)}
        for word, instead in here.items():
            words = [each.replace(word, instead) for each in words]
        done = agent.run(*words)
        assert done.returncode == 0 and "is marked as moved" in done.stdout, done.stdout + done.stderr

    def delivered(builds: int) -> None:
        jenkins.add_builds(JOB, builds, repo=REPO)
        done = agent.run("once")
        assert done.returncode == 0, done.stdout + done.stderr

    agent = Agent.configured(machine.folder, jenkins=jenkins_server, hivel=hivel_server)
    alone = agent.config.read_text()
    jenkins.add_job(JOB)
    delivered(2)
    machine.agent(jenkins=jenkins_server, hivel=hivel_server)
    type_command(there)
    assert "2 delivered" in agent.run("status").stdout
    delivered(1)
    shared = agent.config.read_text()
    agent.config.write_text(alone)
    assert "was moved to postgresql://localhost" in agent.run("once").stderr
    agent.config.write_text(shared)
    agent.outbox.rename(machine.folder / "before.db")
    type_command(back)
    agent.config.write_text(alone)
    delivered(1)
    assert "4 delivered" in agent.run("status").stdout
    assert Counter(each.deployment_id for each in hivel.requests()) == Counter(
        f"main:{JOB}#{number}" for number in (1, 2, 3, 4)
    )


# ---- rights, backup


def test_agents_whose_role_only_reads_and_writes_rows(own_cluster: Cluster, tmp_path: Path) -> None:
    database = "postgres"
    for statement in only("With fewer rights", "CREATE ROLE").strip().splitlines():
        if statement.startswith("\\connect "):
            database = statement.split()[1].rstrip(";")
        else:
            own_cluster.execute(statement, database)
    url = own_cluster.url("hivel_agent").replace("agent@", "hivel_{}@", 1)
    agents, owner = url.format("agent"), url.format("owner")
    with Fleet(tmp_path, own_cluster, "hivel_agent", agents) as fleet:
        early = fleet.start("one", wait=False)
        wait_until(lambda: "permission denied for schema public" in early.agent.log(), "it may create no tables")
        early.kill()
        making = Agent.configured(tmp_path, jenkins=NOWHERE, hivel=NOWHERE)
        text = making.config.read_text()
        making.config.write_text(text.replace('path = "outbox.db"', f'path = "outbox.db"\nurl = "{owner}"'))
        assert "can be written" in making.run("check", "--offline").stdout
        one, two = fleet.start("one"), fleet.start("two")
        fleet.settle(one, two)
        fleet.expect_delivered(fleet.build(2))
        one.stop()
        fleet.settle(two)
        assert two.agent.run("queue", "list").returncode == 0
        assert "denied" not in one.agent.log() + two.agent.log()


def test_a_restored_database_reads_later_builds_again_and_sends_what_was_pending_under_the_same_ids(
    own_cluster: Cluster,
    jenkins: LocalJenkins,
    jenkins_server: LocalServer,
    hivel: LocalHivel,
    hivel_server: LocalServer,
    tmp_path: Path,
) -> None:
    own_cluster.execute("CREATE DATABASE hivel_agent")
    agent = Agent.configured(tmp_path, jenkins=jenkins_server, hivel=hivel_server)
    text = agent.config.read_text()
    url = own_cluster.url("hivel_agent")
    agent.config.write_text(text.replace('path = "outbox.db"', f'path = "outbox.db"\nurl = "{url}"'))

    def once() -> None:
        done = agent.run("once")
        assert "delivered" in done.stdout, done.stdout + done.stderr

    def type_command(program: str) -> None:
        [line] = [each for block in blocks("Backups") for each in block.splitlines() if f" {program} " in each]
        words = shlex.split(line.replace("/var/lib/postgresql", str(own_cluster.data)))
        program, *arguments = words[words.index("postgres") + 1 :]
        where = ["--host", str(own_cluster.folder), "--port", str(own_cluster.port), "--username", "agent"]
        own_cluster.run(program, *where, *arguments)

    jenkins.add_job(JOB)
    jenkins.add_builds(JOB, 2, repo=REPO)
    once()
    hivel.fault(Fault(kind="status", status=503))
    jenkins.add_builds(JOB, 1, repo=REPO)
    once()  # build 3 is pending at the time of the backup
    type_command("pg_dump")
    hivel.clear_faults()
    jenkins.add_builds(JOB, 1, repo=REPO)
    for _ in range(3):
        once()
    before = sorted(each.event.deployment_id for each in hivel.deployments())
    assert before == [f"main:{JOB}#{number}" for number in (1, 2, 3, 4)]
    asked = len(hivel.requests())

    type_command("pg_restore")
    for _ in range(3):
        once()

    assert sorted(each.event.deployment_id for each in hivel.deployments()) == before
    again = Counter(each.deployment_id for each in hivel.requests()[asked:])
    assert again == Counter({f"main:{JOB}#3": 1, f"main:{JOB}#4": 1})
