"""Reading the text of a configuration or token file, with errors that say what to do."""

from __future__ import annotations

import codecs
import grp
import os
import pwd
import shlex
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class ReadError(Exception):
    """A file cannot be read as text. ``line``: the line of the error, if there is one."""

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.line = line


def read_text(path: Path, *, secret: bool = False) -> str:
    """The text of a UTF-8 file, with or without a byte order mark.

    ``secret``: errors contain no character of the file. Raises :class:`ReadError`, and :class:`FileNotFoundError` if
    the file does not exist.
    """
    content = _read(path)
    if content.startswith(_UTF16):
        raise ReadError("the file is UTF-16 text; save it as UTF-8")
    try:
        return content.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        shown = "" if secret else _in_windows_1252(content[error.start])
        raise ReadError(f"line {line} is not UTF-8{shown}; save the file as UTF-8", line) from None


def check_readable(path: Path) -> None:
    """The content of a file. Raises :class:`ReadError`, also if the file does not exist."""
    try:
        path.open("rb").close()
    except OSError as error:
        raise ReadError(_why_not(path, error)) from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ReadError(_why_not(path, error)) from error


def _why_not(path: Path, error: OSError) -> str:
    return f"{error.strerror}{_denied(path) if isinstance(error, PermissionError) else ''}"


def _in_windows_1252(byte: int) -> str:
    letter = bytes([byte]).decode("cp1252", "replace")
    meaning = f", which is {letter} in Windows-1252" if letter.isprintable() and letter != "\ufffd" else ""
    return f" (byte 0x{byte:02X}{meaning})"


def _denied(path: Path) -> str:
    """The owner of a file that cannot be read, and what to do. Begins with a colon."""
    try:
        user = name_of_user(os.geteuid())
        place = _first_closed(path)
        there = place.stat()
    except OSError:
        return ""
    group = _name_of_group(there.st_gid)
    mode = stat.S_IMODE(there.st_mode)
    what = "it" if place == path else str(place)
    words = f": {what} belongs to {name_of_user(there.st_uid)}:{group} with mode {mode:04o}, and you are user {user}"
    if place != path:
        return f"{words}; run the command as the owner or with sudo"
    advice = f"run the command with sudo, or let this user read the file: sudo chown {user} {shlex.quote(str(path))}"
    return f"{words}; {advice}"


def _first_closed(path: Path) -> Path:
    """The outermost folder of the path that this user cannot enter, or else the path itself."""
    for folder in reversed(path.absolute().parents):
        if not os.access(folder, os.X_OK, effective_ids=True):
            return folder
    return path


def name_of_user(number: int) -> str:
    """The name of a user, or the number if there is no name."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _name_of_group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
