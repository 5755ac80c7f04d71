"""A machine on which the wheel was installed: what its administrator relies on, seen in this order."""

from __future__ import annotations

import json
import shlex
import time
from typing import TYPE_CHECKING

from tests.container.machine import SHARE, StoryError, wait
from tests.container.readme import commands
from tests.container.service import FOLDER, LOGFMT, UNIT, Service
from tests.container.world import HIVEL_TOKEN, JENKINS_TOKEN

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.container.machine import Machine
    from tests.container.world import World

# Ways to a token that have to be shut for everybody else. `%s` is the process of the agent.
WAYS_TO_THE_TOKENS = (
    f"cat {FOLDER}/hivel.token",
    f"cat {FOLDER}/jenkins.token",
    "ls /run/credentials/hivel-agent.service",
    "cat /run/credentials/hivel-agent.service/hivel-token",
    "cat /proc/%s/environ",
    "cat /proc/%s/root/run/credentials/hivel-agent.service/hivel-token",
    "cat /var/lib/hivel-agent/outbox.db",
)


# What the agent must not be able to do, even as root: run in its view of the file system, with the reason it gets.
OUT_OF_BOUNDS = (
    ("touch /etc/hivel-agent/x", "Read-only file system"),
    ("touch /opt/hivel-agent/x", "Read-only file system"),
    ("touch /usr/local/bin/x", "Read-only file system"),
    ("cp /usr/bin/true /var/lib/hivel-agent/x; /var/lib/hivel-agent/x", "Permission denied"),
    ("cp /usr/bin/true /tmp/x; /tmp/x", "Permission denied"),
    ("cp /usr/bin/true /var/tmp/x; /var/tmp/x", "Permission denied"),
    ("cp /usr/bin/true /dev/shm/x; /dev/shm/x", "Permission denied"),
    ("touch /run/x", "Read-only file system"),
    ("touch /var/lib/x", "Read-only file system"),
    ("ls /home/mallory", "No such file or directory"),
    ("cat /proc/meminfo", "No such file or directory"),
)


class WheelStory:
    """Its steps build on each other; each returns what was seen, or raises :class:`StoryError`."""

    def __init__(self, machine: Machine, world: World, readme: Path) -> None:
        self._machine = machine
        self._service = Service(machine)
        self._world = world
        self._readme = readme

    def steps(self) -> list[tuple[str, Callable[[], str]]]:
        return [
            ("the wheel is installed as the README says", self.install),
            ("systemd-analyze verify and security", self.analyze),
            ("hivel-agent check, without a configuration and without a token", self.check),
            ("hivel-agent init, on a terminal", self.init),
            ("started: the events arrive", self.start),
            ("the journal: one line for each thing, key=value", self.journal),
            ("the tokens can be read by nobody else", self.tokens),
            ("the agent's view of the machine has bounds", self.bounds),
            ("another user's build reports itself through the spool folder", self.report),
            ("reload: a new rule counts, a wrong one is refused", self.reload),
            ("a notification by a command, under the restrictions of the unit", self.notify),
            ("a support bundle by root", self.bundle),
            ("a wrong configuration is not tried again and again", self.wrong),
            ("a second controller with a token of its own", self.second_token),
            ("kill -9 while answers get lost", self.kill),
            ("a hang: the watchdog notices", self.hang),
            ("a clean stop during an outage of Hivel", self.stop),
            ("a reboot with events in the outbox", self.reboot),
            ("every process killed at once, and booted again", self.cut_power),
            ("in the end", self.balance),
        ]

    def install(self) -> str:
        # The container has no network: pip takes the locked packages from a folder. Nobody needs sudo: it is root.
        script = ['sudo() { "$@"; }', f"export PIP_NO_INDEX=1 PIP_FIND_LINKS={SHARE}/wheels", f"cd {SHARE}"]
        script += [commands(self._readme, heading) for heading in ("A wheel in /opt", "The service")]
        self._machine.shell("\n".join(script))
        return self._machine.read("hivel-agent", "--version")

    def analyze(self) -> str:
        said = self._machine.read("systemd-analyze", "verify", f"/etc/systemd/system/{UNIT}")
        if said:
            raise StoryError(said)
        self._machine.run("systemd-analyze", "security", "--offline=true", "--threshold=10", UNIT)
        return self._machine.read("systemd-analyze", "security", "--offline=true", UNIT).splitlines()[-1].strip("→ ")

    def check(self) -> str:
        nothing = self._machine.run("hivel-agent", "check", ok=False)
        if nothing.returncode != 2 or "hivel-agent init" not in nothing.stdout:
            raise StoryError(f"without a configuration `check` exits with {nothing.returncode}:\n{nothing.stdout}")
        self._machine.write(f"{FOLDER}/config.toml", self._world.config)
        empty = self._machine.run("hivel-agent", "check", ok=False)
        if empty.returncode != 2 or "token" not in empty.stdout:
            raise StoryError(f"without a token `check` exits with {empty.returncode}:\n{empty.stdout}")
        self._machine.run("rm", f"{FOLDER}/config.toml")
        return "exit code 2, and what to do"

    def init(self) -> str:
        self._world.builds(3)
        return self._service.init(self._world)

    def start(self) -> str:
        """With what `init` wrote. The rest of the story is in a hurry."""
        self._service.be_impatient()
        self._machine.run("systemctl", "enable", "--now", UNIT)
        seen = self._world.arrived()
        self._service.configure(self._world)
        self._service.reload(self._world.config, "configuration reloaded")
        return seen

    def journal(self) -> str:
        lines = self._service.log(self._service.pid)
        if len(lines) < 1 + 2 * self._world.expected:
            raise StoryError(f"the journal has only {len(lines)} lines of the agent")
        for line in lines:
            if not LOGFMT.fullmatch(line):
                raise StoryError(f"no key=value: {line}")
        everything = self._machine.read("journalctl", "--boot")
        if HIVEL_TOKEN in everything or JENKINS_TOKEN in everything:
            raise StoryError("a token is in the journal")
        return f"{len(lines)} lines, no token in them"

    def tokens(self) -> str:
        pid = self._service.pid
        self._machine.run("useradd", "--create-home", "mallory")
        for way in WAYS_TO_THE_TOKENS:
            command = shlex.split(way.replace("%s", str(pid)))
            # root gets there: so the way exists, and only the permission is missing.
            self._machine.run(*command)
            tried = self._machine.run("runuser", "-u", "mallory", "--", *command, ok=False)
            if tried.returncode == 0:
                raise StoryError(f"another user may {shlex.join(command)}")
        # Not even root finds them where programs tell everybody how they were started.
        told = self._machine.read("cat", f"/proc/{pid}/environ", f"/proc/{pid}/cmdline")
        if HIVEL_TOKEN in told or JENKINS_TOKEN in told:
            raise StoryError("a token is in the environment or on the command line of the agent")
        return f"{len(WAYS_TO_THE_TOKENS)} ways tried as another user, none in the environment"

    def bounds(self) -> str:
        view = ("nsenter", f"--target={self._service.pid}", "--mount", "--", "sh", "-c")
        self._machine.run(*view, "touch /var/lib/hivel-agent/x && rm /var/lib/hivel-agent/x && /usr/bin/true")
        for command, reason in OUT_OF_BOUNDS:
            said = self._machine.run(*view, command, ok=False)
            if said.returncode == 0 or reason not in said.stdout:
                raise StoryError(f"{command}: exit code {said.returncode}, {said.stdout}")
        return f"{len(OUT_OF_BOUNDS)} ways out tried"

    def report(self) -> str:
        report = [
            "hivel-agent", "emit", "--strict", "--deployment-id", "reported-by-a-build", "--status", "success",
            "--environment", "production", "--repo-url", "https://git.example.test/acme/shop.git", "--branch", "main",
        ]  # fmt: skip
        self._machine.run("useradd", "--groups=hivel-agent", "builder")
        if self._machine.run("runuser", "-u", "mallory", "--", *report, ok=False).returncode == 0:
            raise StoryError("a user outside of the group may report builds")
        said = self._machine.read("runuser", "-u", "builder", "--", *report)
        if "/var/spool/hivel-agent/" not in said:
            raise StoryError(said)
        self._world.expect("reported-by-a-build")
        seen = self._world.arrived()
        wait("the report was taken away", lambda: not self._machine.read("ls", "/var/spool/hivel-agent"))
        return seen

    def reload(self) -> str:
        pid = self._service.pid
        live = self._world.config.replace("# prod =", "production =")
        self._service.reload(live, "configuration reloaded")
        self._world.builds(1)
        self._world.arrived()
        if (environment := self._world.environment_of_newest()) != "live":
            raise StoryError(f"after the reload the environment is {environment}, not live")
        said = self._service.refuse("[hivel]\nurl = 7\n")
        if "hivel.url" not in said:
            raise StoryError(f"the refused reload does not say why: {said}")
        self._world.builds(1)
        self._world.arrived()
        self._service.reload(self._world.config, "configuration reloaded")
        wait("systemd hears that it was read", lambda: self._service.active)
        if self._service.pid != pid:
            raise StoryError("the agent was restarted by the reload")
        return "the same process before and after"

    def notify(self) -> str:
        """A controller is down, and a script from /usr/local/bin is run for it."""
        told, program = "/var/lib/hivel-agent/notified", "/usr/local/bin/notify-team"
        self._machine.write(program, f"#!/bin/sh\ncat >> {told}; sh -c 'env >> {told}.env'\n")
        self._machine.run("chmod", "755", program)
        broken = '[[jenkins]]\nname = "broken"\nurl = "http://127.0.0.1:1/"\n'
        notify = f'[notify]\ncommand = ["{program}"]\nafter = "1s"\n'
        self._service.reload(f"{self._world.config}\n{broken}{notify}", "configuration reloaded")
        wait("it is notified", lambda: self._machine.run("test", "-s", told, ok=False).returncode == 0)
        said = json.loads(self._machine.read("head", "-1", told))
        if (said["kind"], said["controller"], said["state"]) != ("controller_down", "broken", "firing"):
            raise StoryError(f"another notification: {said}")
        if HIVEL_TOKEN in (found := self._machine.read("cat", f"{told}.env")) or "CREDENTIALS" in found:
            raise StoryError(f"the command sees the tokens: {found}")
        self._machine.run("hivel-agent", "notify", "test")
        self._service.reload(self._world.config, "configuration reloaded")
        self._machine.run("rm", told, f"{told}.env", program)
        return str(said["text"])

    def bundle(self) -> str:
        """It has the lines of the journal, and leaves no file of root beside the outbox."""
        said = self._machine.read("hivel-agent", "support-bundle", "--output", "/root/bundle.tar.gz")
        text = self._machine.read("tar", "-xzOf", "/root/bundle.tar.gz")
        if "event=started" not in text or '"daemon_pid"' not in text:
            raise StoryError(f"log or status are missing: {text}")
        if HIVEL_TOKEN in text or JENKINS_TOKEN in text:
            raise StoryError("a token is in the bundle")
        if roots := self._machine.read("find", "/var/lib/hivel-agent", "-name", "outbox*", "-user", "root"):
            raise StoryError(f"these belong to root: {roots}")
        return ", ".join(line.split()[0] for line in said.splitlines()[:6])

    def wrong(self) -> str:
        """An empty token is such a configuration too; the unit waits one second before it tries again."""
        self._machine.run("systemctl", "stop", UNIT)
        wrong = {
            f"{FOLDER}/config.toml": ("[hivel]\nurl = 7\n", self._world.config, "hivel.url"),
            f"{FOLDER}/hivel.token": ("", HIVEL_TOKEN, "hivel-token"),
        }
        for path, (text, right, sign) in wrong.items():
            self._machine.write(path, text)
            since = self._machine.read("date", "+%s")
            if self._machine.run("systemctl", "start", UNIT, ok=False).returncode == 0:
                raise StoryError(f"it starts with {path} as {text!r}")
            time.sleep(3)
            seen = {name: self._service.show(name) for name in ("ActiveState", "ExecMainStatus", "NRestarts")}
            if seen != {"ActiveState": "failed", "ExecMainStatus": "2", "NRestarts": "0"}:
                raise StoryError(f"{path}: {seen}")
            if sign not in self._machine.read("journalctl", f"--since=@{since}", f"--unit={UNIT}"):
                raise StoryError(f"the journal does not say what is wrong with {path}")
            self._machine.write(path, right)
        self._machine.run("systemctl", "start", UNIT)
        return "it fails with exit code 2 and stays failed, and the journal says why"

    def second_token(self) -> str:
        """By a credential for the service, by the file for root's verbs. Its job is followed from now on."""
        path = f"{FOLDER}/jenkins.second.token"
        self._machine.shell(f"install -m 0600 /dev/null {path}")
        self._machine.write(
            f"/etc/systemd/system/{UNIT}.d/second.conf", f"[Service]\nLoadCredential=jenkins-token.second:{path}\n"
        )
        second = self._world.config.partition("[[jenkins]]")[2].partition("[environments]")[0]
        second = second.replace('"main"', '"second"').replace("since = 2020-01-01", 'since = "now"')
        self._machine.write(f"{FOLDER}/config.toml", f"{self._world.config}\n[[jenkins]]{second}")
        self._machine.run("systemctl", "daemon-reload")
        self._machine.run("systemctl", "restart", UNIT)
        self._world.builds(1)
        self._world.arrived()
        wait(
            "the one without a token is in trouble", lambda: self._service.controllers().get("second") == "unauthorized"
        )
        self._machine.write(path, JENKINS_TOKEN + "\n")
        self._machine.run("systemctl", "restart", UNIT)
        wait("the second one is polled", lambda: self._service.controllers() == {"main": "ok", "second": "ok"})
        self._machine.run("hivel-agent", "check")
        self._machine.run("rm", f"/etc/systemd/system/{UNIT}.d/second.conf", path)
        self._machine.run("systemctl", "daemon-reload")
        self._machine.write(f"{FOLDER}/config.toml", self._world.config)
        self._machine.run("systemctl", "restart", UNIT)
        return "its empty credential stopped nobody else"

    def kill(self) -> str:
        pid, restarts = self._service.pid, int(self._service.show("NRestarts"))
        with self._world.answers_get_lost():
            self._world.builds(4)
            wait("Hivel has stored them", self._world.is_stored)
            self._service.signal("KILL")
            self._world.builds(2)
        took = self._service.restarted(pid, restarts)
        seen = self._world.arrived()
        if not self._world.sent_twice():
            raise StoryError("nothing was sent again: the answers were not lost, and this showed nothing")
        return f"started again after {took:.1f} s; {seen}, {self._world.sent_twice()} of them sent twice, stored once"

    def hang(self) -> str:
        pid, restarts = self._service.pid, int(self._service.show("NRestarts"))
        self._service.signal("STOP")
        self._world.builds(2)
        took = self._service.restarted(pid, restarts)
        told = self._machine.read("journalctl", "--boot", f"--unit={UNIT}")
        for sign in ("Watchdog timeout", "Fatal Python error: Aborted", "most recent call first"):
            if sign not in told:
                raise StoryError(f"the journal does not say {sign!r}")
        return f"started again after {took:.1f} s (WatchdogSec=6s); {self._world.arrived()}"

    def stop(self) -> str:
        self._world.hivel.stop()
        self._world.builds(2)
        wait("they are in the outbox", lambda: self._service.events()["pending"] == 2)
        begun = time.monotonic()
        self._machine.run("systemctl", "stop", UNIT)
        took = time.monotonic() - begun
        result = {name: self._service.show(name) for name in ("Result", "ExecMainStatus", "ExecMainCode")}
        if result != {"Result": "success", "ExecMainStatus": "0", "ExecMainCode": "1"}:
            raise StoryError(f"the stop was not clean: {result}")
        self._machine.run("systemctl", "start", UNIT)
        self._world.hivel.start()
        return f"exit code 0 after {took:.1f} s; started again: {self._world.arrived()}"

    def reboot(self) -> str:
        self._world.hivel.stop()
        self._world.builds(2)
        wait("they are in the outbox", lambda: self._service.events()["pending"] == 2)
        begun = time.monotonic()
        self._machine.reboot()
        self._world.builds(2)
        self._machine.boot()
        took = time.monotonic() - begun
        self._world.hivel.start()
        return f"{took:.1f} s, 2 events waited and 2 builds ended meanwhile; {self._world.arrived()}"

    def cut_power(self) -> str:
        self._world.hivel.stop()
        self._world.builds(2)
        wait("they are in the outbox", lambda: self._service.events()["pending"] == 2)
        self._machine.cut_power()
        self._world.builds(2)
        self._machine.boot()
        self._world.hivel.start()
        return self._world.arrived()

    def balance(self) -> str:
        wait("everything is settled", lambda: self._service.events()["delivered"] == self._world.expected)
        self._machine.power_off()
        return f"{self._world.expected} events at Hivel, each stored once, and no other"
