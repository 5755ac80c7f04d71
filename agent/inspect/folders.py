"""Whether the folders of the configuration can be used by the user who runs this."""

from __future__ import annotations

import os
from pathlib import Path

from agent.config.reading import name_of_user
from agent.inspect.findings import Finding, Level


def cannot_make(path: Path) -> str | None:
    """Why this missing file or folder cannot be created; None if it can."""
    place = closed(path)
    if place is None:
        return None
    return f"{path} cannot be created: {_not_writable(place) if place.is_dir() else f'{place} is not a folder'}"


def closed(path: Path) -> Path | None:
    """The innermost existing part of the path, if this user cannot create a file in it; None if the user can."""
    place = nearest(path)
    return None if place.is_dir() and os.access(place, os.W_OK | os.X_OK) else place


def nearest(path: Path) -> Path:
    """The innermost part of the path that exists and is visible. It can be a file."""
    seen = Path(path.anchor or ".")
    for place in (*reversed(path.absolute().parents), path.absolute()):
        if not os.path.lexists(place):
            break
        seen = place
    return seen


def _not_writable(folder: Path) -> str:
    user, owner = name_of_user(os.geteuid()), name_of_user(folder.stat().st_uid)
    return f"{folder} belongs to {owner}, and {user} cannot write to it"


def spool(folder: Path | None) -> list[Finding]:
    """A warning if the agent cannot take reports from this folder. A missing folder is not in use and is fine."""
    if folder is None:
        return []
    if nearest(folder) != folder.absolute():
        problem = None if nearest(folder).is_dir() else f"{folder} cannot be created: {nearest(folder)} is not a folder"
    elif not folder.is_dir():
        problem = f"{folder} is not a folder"
    elif not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        problem = f"{_not_writable(folder)}: reports in it cannot be read and removed"
    else:
        problem = None
    return [] if problem is None else [Finding(Level.WARNING, "spool", f"{problem}; correct [hook] spool or its owner")]
