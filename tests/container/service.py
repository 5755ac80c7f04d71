"""The unit as an administrator sees it: through systemctl, journalctl and the verbs."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from tests.container.machine import StoryError, wait
from tests.container.world import HIVEL_TOKEN, JENKINS_TOKEN

if TYPE_CHECKING:
    from tests.container.machine import Machine
    from tests.container.world import World

UNIT = "hivel-agent.service"
FOLDER = "/etc/hivel-agent"
# What `init` writes, with the owners and modes of the table in the installation page.
WRITTEN = [
    "config.toml root:hivel-agent 0640",
    "hivel.token root:root 0600",
    "jenkins.token root:root 0600",
    "web.password hivel-agent:hivel-agent 0400",
]
# Two values and more, as `event=started version=0.2.0`; a value with spaces is in quotes.
LOGFMT = re.compile(r"timestamp=\S+ level=\w+ event=(\"(?:[^\"\\]|\\.)*\"|\S+)( \w+=(\"(?:[^\"\\]|\\.)*\"|\S*))*")
# As the service, but for patience: the real unit waits two minutes for a sign of life, and ten seconds to restart.
IMPATIENT = "[Service]\nWatchdogSec=6s\nRestartSec=1s\n"


class Service:
    """The service on a machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def init(self, world: World) -> str:
        """As the installation page says: `hivel-agent init`, whose questions are answered on a terminal."""
        with self._machine.terminal("hivel-agent", "init") as terminal:
            try:
                for question, answer in world.answers:
                    terminal.answer(question, answer)
                code = terminal.end()
            except AssertionError as error:
                raise StoryError(f"init does not ask what the page says: {error}") from None
        if code or HIVEL_TOKEN in terminal.shown or JENKINS_TOKEN in terminal.shown:
            raise StoryError(f"init ended with {code}, or shows a token:\n{terminal.shown}")
        listed = f"cd {FOLDER} && stat --format='%n %U:%G %04a' *.toml *.token *.password"
        files = self._machine.read("sh", "-c", listed)
        if files.splitlines() != WRITTEN:
            raise StoryError(f"the files are not as the page has them:\n{files}")
        self._machine.run("hivel-agent", "check")
        return f"{len(world.answers)} questions, {len(WRITTEN)} files"

    def configure(self, world: World) -> None:
        """By hand: the configuration and both tokens."""
        self._machine.write(f"{FOLDER}/config.toml", world.config)
        self._machine.write(f"{FOLDER}/hivel.token", HIVEL_TOKEN + "\n")
        self._machine.write(f"{FOLDER}/jenkins.token", JENKINS_TOKEN + "\n")

    def be_impatient(self) -> None:
        self._machine.run("mkdir", "-p", f"/etc/systemd/system/{UNIT}.d")
        self._machine.write(f"/etc/systemd/system/{UNIT}.d/test.conf", IMPATIENT)
        self._machine.run("systemctl", "daemon-reload")

    def show(self, name: str) -> str:
        return self._machine.read("systemctl", "show", "--value", "--property", name, UNIT)

    @property
    def pid(self) -> int:
        return int(self.show("MainPID"))

    @property
    def active(self) -> bool:
        return self.show("ActiveState") == "active"

    def events(self) -> dict[str, int]:
        """How many events are in which state, by the verb `status`."""
        answer: dict[str, dict[str, int]] = json.loads(self._machine.read("hivel-agent", "status", "--json"))
        return answer["events"]

    def controllers(self) -> dict[str, str]:
        """The state of each controller, by the verb `status`."""
        answer = json.loads(self._machine.read("hivel-agent", "status", "--json"))
        return {controller["name"]: controller["state"] for controller in answer["controllers"]}

    def log(self, pid: int) -> list[str]:
        """What one run of the agent wrote to the journal."""
        return self._machine.read("journalctl", "--output=cat", f"_PID={pid}").splitlines()

    def signal(self, name: str) -> None:
        """Send a signal to the agent itself."""
        self._machine.run("systemctl", "kill", "--kill-whom=main", f"--signal={name}", UNIT)

    def reload(self, config: str, says: str) -> None:
        """Give it another configuration, and wait until it says so."""
        pid = self.pid
        before = "\n".join(self.log(pid)).count(says)
        self._machine.write(f"{FOLDER}/config.toml", config)
        self._machine.run("systemctl", "reload", UNIT)
        wait(f"the agent says {says!r}", lambda: "\n".join(self.log(pid)).count(says) > before)

    def refuse(self, config: str) -> str:
        """Give it a wrong configuration: the reload fails, the service goes on; what the journal says of it."""
        since = self._machine.read("date", "+%s")
        self._machine.write(f"{FOLDER}/config.toml", config)
        if self._machine.run("systemctl", "reload", UNIT, ok=False).returncode == 0:
            raise StoryError("a reload with a wrong configuration succeeds")
        if not self.active:
            raise StoryError(f"after a refused reload it is {self.show('ActiveState')}")
        return self._machine.read("journalctl", f"--since=@{since}", f"--unit={UNIT}")

    def restarted(self, before: int, restarts: int) -> float:
        """Wait until systemd has started it anew; the seconds that it took."""
        took = wait(
            f"systemd starts the agent again (it was process {before})",
            lambda: self.active and self.pid not in (0, before),
        )
        if (count := int(self.show("NRestarts"))) != restarts + 1:
            raise StoryError(f"systemd counts {count} restarts, and {restarts} before")
        return took
