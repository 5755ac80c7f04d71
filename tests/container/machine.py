"""A container with a systemd of its own: booted, used, rebooted, and deprived of its power."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tests.integration.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable

BOOT_S = 120.0
COMMAND_S = 600.0  # pip unpacks and compiles 43 packages
# What the harness shares with the container, read-only.
SHARE = Path("/srv/share")
CLEAN = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/root"}


class StoryError(Exception):
    """Something was not as it has to be; the message says what was seen."""


def wait(what: str, condition: Callable[[], bool], patience_s: float = 120.0) -> float:
    """Look again and again until it is so; the seconds that it took. Raises :class:`StoryError` in the end."""
    begun = time.monotonic()
    while not condition():
        if time.monotonic() - begun > patience_s:
            raise StoryError(f"waited {patience_s:.0f} s in vain until {what}")
        time.sleep(0.1)
    return time.monotonic() - begun


class Machine:
    """A Debian in ``root``, whose init is run by systemd-nspawn. It shares the network of whoever boots it."""

    def __init__(self, root: Path, share: Path) -> None:
        self._root = root
        self._share = share
        self._console = root.with_suffix(".console")
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._init = 0

    def boot(self) -> None:
        """Raises :class:`StoryError` when systemd does not come up."""
        command = [
            "systemd-nspawn", "--quiet", "--boot", f"--directory={self._root}", "--machine=agent-test",
            "--register=no", "--keep-unit", "--console=pipe", "--link-journal=no",
            f"--bind-ro={self._share}:{SHARE}",
            # The host may have cgroup v1. The systemd of Debian 13 then boots only with this; others ignore it.
            "SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1",
        ]  # fmt: skip
        self._init = 0
        with self._console.open("ab") as console:
            self._nspawn = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console, stderr=console)
        try:
            wait("systemd has booted", self._has_booted, BOOT_S)
        except StoryError as error:
            last = " / ".join(self._console.read_text(errors="replace").splitlines()[-3:])
            raise StoryError(f"{error}: {last or 'nothing was printed'}") from None

    def run(self, *command: str, stdin: str | None = None, ok: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in the container, as root. Raises :class:`StoryError` if it fails and ``ok`` says it must not.

        Standard output and standard error come together.
        """
        done = subprocess.run(
            [*self._enter(), *command], input=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=CLEAN,
            encoding="utf-8", errors="replace", timeout=COMMAND_S, check=False,
        )  # fmt: skip
        if ok and done.returncode:
            raise StoryError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}")
        return done

    def terminal(self, *command: str) -> Terminal:
        """A command in the container, as root on a terminal that waits for answers."""
        return Terminal(*command, env=CLEAN, program=self._enter())

    def _enter(self) -> list[str]:
        return ["nsenter", f"--target={self._init}", "--all", "--root", "--wd", "--"]

    def read(self, *command: str) -> str:
        """What a command says, without the line's end."""
        return self.run(*command).stdout.strip()

    def shell(self, script: str) -> str:
        """Run a script of several lines that stops at the first command that fails."""
        return self.run("bash", "-eu", "-o", "pipefail", "-s", stdin=script).stdout

    def write(self, path: str, text: str) -> None:
        """Replace the content of a file; its owner and mode stay."""
        self.run("tee", path, stdin=text)

    def reboot(self) -> None:
        """As an administrator does it. Whatever has to be done meanwhile, do it between this and :meth:`boot`."""
        self._end("reboot")

    def power_off(self) -> None:
        self._end("poweroff")

    def cut_power(self) -> None:
        """Every process ends at once, and none hears of it."""
        if self._nspawn is None:
            return
        with suppress(ProcessLookupError):
            # Process 1 of its namespace: the others end with it. Without one, nothing has begun.
            os.kill(self._init or self._nspawn.pid, signal.SIGKILL)
        self._nspawn.wait(BOOT_S)
        self._nspawn = None

    def _end(self, verb: str) -> None:
        assert self._nspawn is not None
        self.run("systemctl", "--no-block", verb)
        try:
            self._nspawn.wait(BOOT_S)
        except subprocess.TimeoutExpired:
            raise StoryError(f"systemctl {verb}: the container still runs after {BOOT_S:.0f} s") from None
        self._nspawn = None

    def _has_booted(self) -> bool:
        assert self._nspawn is not None
        if self._nspawn.poll() is not None:
            raise StoryError(f"systemd-nspawn ended with {self._nspawn.returncode}")
        inits = _children(self._nspawn.pid)
        if len(inits) != 1:
            return False
        self._init = inits[0]
        return self.run("systemctl", "is-system-running", ok=False).stdout.strip() in ("running", "degraded")


def _children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended between the listing and the reading
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found
