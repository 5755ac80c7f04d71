"""A minimal Debian with systemd and Python, made once by debootstrap and kept as an archive."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# The Debian releases that the tests run on, with their Python. `DEBIAN_SUITE=trixie make container-test` selects one.
PYTHON = {"bookworm": "3.11", "trixie": "3.13"}
SUITE = os.environ.get("DEBIAN_SUITE", "bookworm")
MIRROR = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian")
# What the README asks for, and what the package of the agent depends on: the container has no network.
PACKAGES = ("systemd", "systemd-sysv", "dbus", "python3", "python3-venv", "ca-certificates")
TOOLS = ("debootstrap", "systemd-nspawn", "nsenter", "unshare", "setpriv")


class CannotBootError(Exception):
    """This machine cannot do it, and that is no fault of the agent; the message says why."""


def require_tools() -> None:
    """Raises :class:`CannotBootError` when this is not root, or a tool is missing."""
    if os.geteuid() != 0:
        raise CannotBootError("it needs root: debootstrap and systemd-nspawn do")
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        raise CannotBootError(f"{', '.join(missing)} not found; apt-get install debootstrap systemd-container")


def archive(cache: Path) -> Path:
    """The archive in ``cache``, made if it is not there. Raises :class:`CannotBootError` when it cannot be made."""
    key = hashlib.sha256(" ".join((SUITE, *PACKAGES)).encode()).hexdigest()[:8]
    kept = cache / f"{SUITE}-{key}.tar"
    if kept.exists():
        return kept
    cache.mkdir(parents=True, exist_ok=True)
    root, unfinished = cache / f"{SUITE}.making", kept.with_suffix(".making")
    shutil.rmtree(root, ignore_errors=True)
    try:
        _make("debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, str(root), MIRROR)
        _make(
            "tar", "--create", "--numeric-owner", "--xattrs", "--directory", str(root), "--file", str(unfinished), "."
        )
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return unfinished.rename(kept)


def unpack(kept: Path, root: Path) -> None:
    """A fresh Debian in ``root``."""
    root.mkdir(parents=True)
    _make("tar", "--extract", "--numeric-owner", "--xattrs", "--same-owner", "-C", str(root), "--file", str(kept))


def _make(*command: str) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise CannotBootError(f"{command[0]} failed: {' / '.join(done.stdout.splitlines()[-3:])}")
