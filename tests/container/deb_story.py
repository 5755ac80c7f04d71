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
BUILT, OLDER = "/var/tmp/deb", "/var/tmp/older"

# The packages up to 0.1.0 had their example as a conffile, at the place of the configuration.
MAKE_OLDER = f"""
work=$(mktemp -d)
dpkg-deb -R {BUILT}/*.deb "$work/root"
sed 's/^# A/# An older text: a/' {SHARE}/systemd/config.example.toml >"$work/root{FOLDER}/config.toml"
chmod 0640 "$work/root{FOLDER}/config.toml"
echo {FOLDER}/config.toml >"$work/root/DEBIAN/conffiles"
sed -i 's/^Version:.*/&~older/' "$work/root/DEBIAN/control"
mkdir -p {OLDER}
dpkg-deb --root-owner-group -Znone --build "$work/root" {OLDER}/{PACKAGE}.deb
rm -rf "$work"
"""


class DebStory:
    """Its steps build on each other; each returns what was seen, or raises :class:`StoryError`."""

    def __init__(self, machine: Machine, world: World) -> None:
        self._machine = machine
        self._service = Service(machine)
        self._world = world

    def steps(self) -> list[tuple[str, Callable[[], str]]]:
        return [
            ("the package is built in it", self.build),
            ("the package is installed", self.install),
            ("hivel-agent init, on a terminal", self.init),
            ("started: the events arrive", self.start),
            ("purged", self.purge),
            ("0.1.0 whose configuration nobody changed is upgraded", self.upgrade_untouched),
            ("purged", self.purge),
            ("0.1.0 is configured and started: the events arrive", self.start_older),
            ("upgraded while it runs", self.upgrade),
            ("upgraded to itself", self.reinstall),
            ("removed, and installed again", self.remove),
            ("everything is settled", self.settle),
            ("purged", self.purge),
        ]

    def build(self) -> str:
        """As `make deb` does, and with nothing but what a bare Debian has."""
        self._machine.shell(
            f"export PIP_NO_INDEX=1 PIP_FIND_LINKS={SHARE}/wheels\n"
            f"mkdir {BUILT}\n{SHARE}/packaging/deb/build {SHARE}/dist/*.whl {BUILT}\n{MAKE_OLDER}"
        )
        return self._machine.read("ls", BUILT)

    def install(self) -> str:
        said = self._dpkg_install(BUILT)
        if "hivel-agent init" not in said or self._exists(f"{FOLDER}/config.toml"):
            raise StoryError(f"there is a configuration, or nobody says how to make one:\n{said}")
        state = self._machine.run("systemctl", "is-enabled", UNIT, ok=False).stdout.strip()
        if state != "disabled" or self._service.active:
            raise StoryError(f"before it is configured it is {state} and {self._service.show('ActiveState')}")
        if said := self._machine.read("systemd-analyze", "verify", UNIT):
            raise StoryError(said)
        wrong = self._machine.run("dpkg", "--verify", PACKAGE).stdout
        if wrong:
            raise StoryError(f"files are not as the package has them:\n{wrong}")
        unconfigured = self._machine.run("hivel-agent", "check", ok=False)
        if unconfigured.returncode != 2 or "hivel-agent init" not in unconfigured.stdout:
            raise StoryError(f"without a configuration: {unconfigured.returncode}, {unconfigured.stdout}")
        if not self._machine.shell("zcat /usr/share/man/man1/hivel-agent.1.gz").startswith(".TH HIVEL"):
            raise StoryError("there is no man page")
        psycopg = self._machine.read("/opt/hivel-agent/bin/python", "-c", "import psycopg; print(psycopg.__version__)")
        return f"{self._machine.read('hivel-agent', '--version')}, psycopg {psycopg}; not enabled, not started"

    def upgrade_untouched(self) -> str:
        self._dpkg_install(OLDER)
        before = self._machine.read("cat", f"{FOLDER}/config.toml")
        said = self._dpkg_install(BUILT)
        if self._machine.read("cat", f"{FOLDER}/config.toml") != before or "hivel-agent init" in said:
            raise StoryError(f"the configuration is another one, or one is asked for:\n{said}")
        told = self._machine.read(f"/var/lib/dpkg/info/{PACKAGE}.prerm", "upgrade", "0.0.1")
        if "outbox.db.v5" not in told:
            raise StoryError(f"a downgrade does not say what it cannot: {told}")
        return "without a question; the configuration stays as it was"

    def init(self) -> str:
        self._world.builds(2)
        return self._service.init(self._world)

    def start(self) -> str:
        self._machine.run("systemctl", "enable", "--now", UNIT)
        return self._world.arrived()

    def start_older(self) -> str:
        self._dpkg_install(OLDER)
        self._service.configure(self._world)
        self._world.builds(3)
        self._machine.run("hivel-agent", "check")
        self._machine.run("systemctl", "enable", "--now", UNIT)
        return self._world.arrived()

    def upgrade(self) -> str:
        before = self._service.pid
        self._dpkg_install(BUILT)
        if not self._service.active or self._service.pid == before:
            raise StoryError("the new version does not run")
        if self._machine.read("cat", f"{FOLDER}/config.toml") != self._world.config.strip():
            raise StoryError("the configuration was replaced")
        self._world.builds(2)
        return f"restarted, the configuration kept; {self._world.arrived()}"

    def reinstall(self) -> str:
        before = self._service.pid
        self._dpkg_install(BUILT)
        if not self._service.active or self._service.pid == before:
            raise StoryError("it was not restarted")
        return "restarted"

    def remove(self) -> str:
        self._machine.run("dpkg", "--remove", PACKAGE)
        if self._service.active or self._exists("/opt/hivel-agent") or self._exists("/usr/bin/hivel-agent"):
            raise StoryError("something is left of the program")
        if not all(map(self._exists, (OUTBOX, f"{FOLDER}/config.toml", f"{FOLDER}/hivel.token"))):
            raise StoryError("the outbox or the configuration is gone, and only a purge may do that")
        self._world.builds(2)
        self._dpkg_install(BUILT)
        if self._machine.read("systemctl", "is-enabled", UNIT) != "enabled":
            raise StoryError("it was enabled, and is no more")
        self._machine.run("systemctl", "start", UNIT)
        return f"outbox, configuration and tokens outlast it; {self._world.arrived()}"

    def settle(self) -> str:
        wait("everything is settled", lambda: self._service.events()["delivered"] == self._world.expected)
        return f"{self._world.expected} events at Hivel, each stored once, and no other"

    def purge(self) -> str:
        self._machine.run("dpkg", "--purge", PACKAGE)
        left = self._machine.shell(
            "find / -xdev \\( -path /proc -o -path /sys -o -path /srv -o -path /run -o -path /tmp "
            "-o -path /var/log -o -path /var/tmp \\) -prune -o -name '*hivel*' -print\n"
            "getent passwd hivel-agent || true"
        )
        if left:
            raise StoryError(f"left behind:\n{left}")
        return "no file and no user is left"

    def _dpkg_install(self, folder: str) -> str:
        """Without a terminal, so that a question is a failure; what was said."""
        return self._machine.shell(
            f"DEBIAN_FRONTEND=noninteractive dpkg --force-unsafe-io --install {folder}/{PACKAGE}*.deb </dev/null 2>&1"
        )

    def _exists(self, path: str) -> bool:
        return self._machine.run("test", "-e", path, ok=False).returncode == 0
