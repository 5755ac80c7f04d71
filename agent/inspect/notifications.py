"""What ``check`` reports about ``[notify]``. Nothing is sent."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from agent.inspect.findings import Finding, Level
from agent.notify.send import url_problem

if TYPE_CHECKING:
    from agent.config.settings import Settings

NOTIFY = "notify"
_HOW_TO_TEST = "to test, run: hivel-agent notify test"
# ProtectHome=, PrivateTmp= and NoExecPaths= in systemd/hivel-agent.service.
_NOT_FOR_THE_SERVICE = ("/home", "/root", "/run/user", "/tmp", "/var/tmp", "/var/lib/hivel-agent")  # noqa: S108


def notifications(settings: Settings) -> list[Finding]:
    """Whether the command can be run, or a URL is set. ``hivel-agent notify test`` sends a notification."""
    notify = settings.notify
    if notify is None:
        return []
    if notify.command:
        return [_command(Path(notify.command[0]))]
    problem = None if notify.url is None else notify.url.problem or url_problem(notify.url.reveal())
    if problem is not None:
        return [Finding(Level.ERROR, NOTIFY, problem)]
    return [Finding(Level.OK, NOTIFY, f"notifications go to the configured URL; {_HOW_TO_TEST}")]


def _command(program: Path) -> Finding:
    try:
        executable = program.is_file() and os.access(program, os.X_OK)
        there = program.exists()
    except OSError as error:
        return Finding(Level.ERROR, NOTIFY, f"cannot access {program}: {error.strerror}")
    if not there:
        return Finding(Level.ERROR, NOTIFY, f"{program} does not exist; correct [notify] command")
    if not executable:
        return Finding(Level.ERROR, NOTIFY, f"{program} is not executable; run: chmod 755 {program}")
    hidden = next((place for place in _NOT_FOR_THE_SERVICE if program.is_relative_to(place)), None)
    if hidden is not None:
        words = f"the systemd service cannot run {program}: it has no access to {hidden}; move it to /usr/local/bin"
        return Finding(Level.WARNING, NOTIFY, words)
    return Finding(Level.OK, NOTIFY, f"notifications go to {program}; {_HOW_TO_TEST}")
