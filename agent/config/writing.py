"""Writing a configuration and its token files, each file completely or not at all."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agent.config.rules import DEFAULT_ENVIRONMENT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from agent.config.credentials import Token

HIVEL_TOKEN, JENKINS_TOKEN, INTAKE_TOKEN = "hivel.token", "jenkins.token", "intake.token"
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Controller:
    """One ``[[jenkins]]`` table. Without ``username``, the agent is anonymous in Jenkins."""

    url: str = "http://localhost/"
    name: str = "jenkins"
    username: str | None = None
    token: Token | None = None
    since: str = "now"


@dataclass(frozen=True)
class Draft:
    """The content of a configuration. The defaults are valid, so that each answer can be checked alone.

    ``polls`` False: without ``controller``; deployments are reported to the intake.
    ``jobs``: patterns, one rule for each; empty: the default rule. ``environment``: the template of all rules.
    """

    hivel_url: str = "https://app.hivel.ai"
    hivel_token: Token | None = None
    controller: Controller = field(default_factory=Controller)
    contact: str | None = None
    jobs: tuple[str, ...] = ()
    environment: str = DEFAULT_ENVIRONMENT
    polls: bool = True


def configuration(draft: Draft, *, token_files: bool) -> str:
    """The text of the file. ``token_files`` False: for the systemd service, with its credentials and default outbox."""
    lines = ["# Written by hivel-agent init. docs/configuration.md explains every key.", "", "[hivel]"]
    lines.append(f"url = {_quoted(draft.hivel_url)}")
    if token_files:
        lines.append(f"token_file = {_quoted(HIVEL_TOKEN)}")
    if draft.contact is not None:
        lines += ["", "[http]", f"contact = {_quoted(draft.contact)}"]
    if draft.polls:
        lines += ["", *_table(draft.controller, JENKINS_TOKEN if token_files else None)]
    else:
        lines += ["", "[intake]", f"token_file = {_quoted(INTAKE_TOKEN)}"]
    for job in draft.jobs:
        lines += ["", "[[deployment]]", f"job = {_quoted(job)}"]
        if draft.environment != DEFAULT_ENVIRONMENT:
            lines.append(f"environment = {_quoted(draft.environment)}")
    if token_files:
        lines += ["", "[outbox]", 'path = "outbox.db"']
    return "\n".join(lines) + "\n"


def with_controller(text: bytes, controller: Controller, token_file: str | None) -> bytes:
    """A configuration with one more controller. The existing text stays unchanged, byte for byte."""
    separator = b"\n" if text.endswith(b"\n") else b"\n\n"
    return text + separator + ("\n".join(_table(controller, token_file)) + "\n").encode()


def _table(controller: Controller, token_file: str | None) -> list[str]:
    lines = ["[[jenkins]]", f"name = {_quoted(controller.name)}", f"url = {_quoted(controller.url)}"]
    if controller.username is not None:
        lines.append(f"username = {_quoted(controller.username)}")
        if token_file is not None:
            lines.append(f"token_file = {_quoted(token_file)}")
    return [*lines, f"since = {_quoted(controller.since)}"]


def _quoted(text: str) -> str:
    """A basic string of TOML: a JSON string, in which DEL is escaped too."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def token_file_of(controller: str) -> str | None:
    """The name of the token file of one of several controllers; None if the controller's name cannot be used in it."""
    return f"jenkins.{controller}.token" if _PLAIN_NAME.fullmatch(controller) else None


# ---- Files


@dataclass(frozen=True)
class NewFile:
    """A file to write. ``owner``: user and group; None: those of the current user."""

    path: Path
    content: bytes
    mode: int
    owner: tuple[int, int] | None = None


@dataclass(frozen=True)
class Written:
    """A file that was written, and the backup of the file that it replaced."""

    path: Path
    mode: int
    backup: Path | None


def write_all(files: Sequence[NewFile], stamp: str) -> list[Written]:
    """Write all files or none. An existing file with other content gets a backup ``NAME.bak-STAMP``.

    All new files are written beside the old ones before the first one is replaced. Signals are delayed meanwhile.
    Raises :class:`OSError`.
    """
    staged: list[tuple[Path, NewFile]] = []
    made: list[Path] = []
    try:
        for file in files:
            staged.append((_unfinished(file), file))
            _write(*staged[-1])
        backups = []
        for file in files:
            backups.append(_backup(file, stamp))
            made += [each for each in backups[-1:] if each is not None]
        with _uninterrupted():
            made.clear()  # from here on, a backup can be the only copy of a file
            for unfinished, file in staged:
                unfinished.replace(file.path)
    finally:
        for path in (*(unfinished for unfinished, _ in staged), *made):
            path.unlink(missing_ok=True)
    return [Written(file.path, file.mode, backup) for file, backup in zip(files, backups, strict=True)]


def write_one(file: NewFile) -> None:
    """Replace one file in one step, without a backup. Raises :class:`OSError`."""
    unfinished = _unfinished(file)
    try:
        _write(unfinished, file)
        unfinished.replace(file.path)
    finally:
        unfinished.unlink(missing_ok=True)


def _unfinished(file: NewFile) -> Path:
    return file.path.with_name(f".{file.path.name}.new")


def _write(path: Path, file: NewFile) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        if file.owner is not None:
            os.fchown(descriptor, *file.owner)
        os.fchmod(descriptor, file.mode)
        stream.write(file.content)
        stream.flush()
        os.fsync(descriptor)


def _backup(file: NewFile, stamp: str) -> Path | None:
    """A copy of the existing file with its mode and owner; None if nothing would be lost."""
    try:
        content = file.path.read_bytes()
    except FileNotFoundError:
        return None
    if not content or content == file.content:
        return None
    there = file.path.stat()
    backup = next(path for path in _free_names(file.path, stamp) if not os.path.lexists(path))
    _write(backup, NewFile(backup, content, there.st_mode & 0o7777, (there.st_uid, there.st_gid)))
    shutil.copystat(file.path, backup)
    return backup


def _free_names(path: Path, stamp: str) -> Iterator[Path]:
    yield path.with_name(f"{path.name}.bak-{stamp}")
    for number in range(2, 1000):
        yield path.with_name(f"{path.name}.bak-{stamp}-{number}")


@contextmanager
def _uninterrupted() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
