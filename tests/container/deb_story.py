"""A machine on which the Debian package is installed, upgraded, removed and purged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.container.machine import SHARE, StoryError, wait
from tests.container.service import FOLDER, UNIT, Service

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.container.machine import Machine
    from tests.container.world import World

PACKAGE = "hivel-jenkins-agent"
OUTBOX = "/var/lib/hivel-agent/outbox.db"


class DebStory:
    """Its steps build on each other; each returns what was seen, or raises :class:`StoryError`."""

    def __init__(self, machine: Machine, world: World) -> None:
        self._machine = machine
        self._service = Service(machine)
        self._world = world

    def steps(self) -> list[tuple[str, Callable[[], str]]]:
        return [
            ("the package is installed", self.install),
            ("configured and started: the events arrive", self.start),
            ("upgraded while it runs", self.upgrade),
            ("removed, and installed again", self.remove),
            ("purged", self.purge),
        ]

    def install(self) -> str:
        self._dpkg_install()
        state = self._machine.run("systemctl", "is-enabled", UNIT, ok=False).stdout.strip()
        if state != "disabled" or self._service.active:
            raise StoryError(f"before it is configured it is {state} and {self._service.show('ActiveState')}")
        if said := self._machine.read("systemd-analyze", "verify", UNIT):
            raise StoryError(said)
        wrong = self._machine.run("dpkg", "--verify", PACKAGE).stdout
        if wrong:
            raise StoryError(f"files are not as the package has them:\n{wrong}")
        return f"{self._machine.read('hivel-agent', '--version')}; not enabled, not started"

    def start(self) -> str:
        self._service.configure(self._world)
        self._world.builds(3)
        self._machine.run("hivel-agent", "check")
        self._machine.run("systemctl", "enable", "--now", UNIT)
        return self._world.arrived()

    def upgrade(self) -> str:
        before = self._service.pid
        self._dpkg_install()
        if not self._service.active or self._service.pid == before:
            raise StoryError("the new version does not run")
        if self._machine.read("cat", f"{FOLDER}/config.toml") != self._world.config.strip():
            raise StoryError("the configuration was replaced")
        self._world.builds(2)
        return f"restarted, the configuration kept; {self._world.arrived()}"

    def remove(self) -> str:
        self._machine.run("dpkg", "--remove", PACKAGE)
        if self._service.active or self._exists("/opt/hivel-agent") or self._exists("/usr/bin/hivel-agent"):
            raise StoryError("something is left of the program")
        if not all(map(self._exists, (OUTBOX, f"{FOLDER}/config.toml", f"{FOLDER}/hivel.token"))):
            raise StoryError("the outbox or the configuration is gone, and only a purge may do that")
        self._world.builds(2)
        self._dpkg_install()
        if self._machine.read("systemctl", "is-enabled", UNIT) != "enabled":
            raise StoryError("it was enabled, and is no more")
        self._machine.run("systemctl", "start", UNIT)
        return f"outbox, configuration and tokens outlast it; {self._world.arrived()}"

    def purge(self) -> str:
        wait("everything is settled", lambda: self._service.events()["delivered"] == self._world.expected)
        self._machine.run("dpkg", "--purge", PACKAGE)
        left = self._machine.shell(
            "find / -xdev \\( -path /proc -o -path /sys -o -path /srv -o -path /run -o -path /tmp "
            "-o -path /var/log \\) -prune -o -name '*hivel*' -print; getent passwd hivel-agent || true"
        )
        if left:
            raise StoryError(f"left behind:\n{left}")
        self._machine.power_off()
        return "no file and no user is left"

    def _dpkg_install(self) -> None:
        self._machine.shell(
            f"DEBIAN_FRONTEND=noninteractive dpkg --force-unsafe-io --install {SHARE}/deb/{PACKAGE}_*.deb"
        )

    def _exists(self, path: str) -> bool:
        return self._machine.run("test", "-e", path, ok=False).returncode == 0
