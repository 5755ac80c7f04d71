"""The name of the person who calls a verb."""

from __future__ import annotations

import getpass
import os
from contextlib import suppress


def login_name() -> str:
    """Who logged in and typed it, also behind `sudo` and `su`."""
    with suppress(OSError):  # nobody logged in: cron, a container
        return os.getlogin()
    with suppress(KeyError, OSError):  # a user without a name
        return os.environ.get("SUDO_USER") or getpass.getuser()
    return f"user {os.getuid()}"
