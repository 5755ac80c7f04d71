"""Tells the stories in a network and a process namespace of its own: ``python -m tests.container.story FOLDER``.

When this process ends, however it ends, every process of the containers ends with it.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import sys
from pathlib import Path

from tests.container.deb_story import DebStory
from tests.container.debian import unpack
from tests.container.log import say, step
from tests.container.machine import Machine, StoryError
from tests.container.service import UNIT
from tests.container.wheel_story import WheelStory
from tests.container.world import world

EXIT_FAILED, EXIT_CANNOT_BOOT = 1, 77
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1


def main(folder: Path, archive: Path, readme: Path) -> int:
    """Tell both stories; the exit code."""
    _bring_loopback_up()
    for name in os.environ.get("STORY", "wheel deb").split():
        unpack(archive, folder / name)
        machine = Machine(folder / name, folder / "share")
        try:
            with world() as outside:
                story = WheelStory(machine, outside, readme) if name == "wheel" else DebStory(machine, outside)
                code = _tell(name, machine, story)
        finally:
            machine.cut_power()
        if code:
            return code
    return 0


def _tell(name: str, machine: Machine, story: WheelStory | DebStory) -> int:
    say(f"{name}:")
    try:
        step("Debian boots", lambda: _boot(machine))
    except StoryError as error:
        # Nothing of the agent is in there yet.
        say(f"\nSKIPPED: this machine cannot boot a container: {error}")
        return EXIT_CANNOT_BOOT
    try:
        for title, run in story.steps():
            step(title, run)
    except StoryError as error:
        say(f"\nFAILED: {error}\n")
        say(machine.run("journalctl", "--no-pager", "--lines=60", f"--unit={UNIT}", ok=False).stdout)
        return EXIT_FAILED
    return 0


def _boot(machine: Machine) -> str:
    machine.boot()
    return machine.read("systemctl", "--version").splitlines()[0]


def _bring_loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = bytearray(struct.pack("16sH14x", b"lo", 0))
        fcntl.ioctl(sock, _SIOCGIFFLAGS, request)
        flags = struct.unpack_from("H", request, 16)[0]
        struct.pack_into("H", request, 16, flags | _IFF_UP)
        fcntl.ioctl(sock, _SIOCSIFFLAGS, request)


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
