"""The name of the user who runs a verb."""

from __future__ import annotations

import getpass
import os
from contextlib import suppress


def login_name() -> str:
    """The user who logged in, also behind `sudo` and `su`."""
    with suppress(OSError):  # no login, as in cron or a container
        return os.getlogin()
    with suppress(KeyError, OSError):  # a user without a name
        return os.environ.get("SUDO_USER") or getpass.getuser()
    return f"user {os.getuid()}"
